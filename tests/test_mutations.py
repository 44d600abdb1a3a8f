"""The planted faults of mutations.py still fit the source; whether tests notice them is its own command."""

import pytest
from mutations import FAULTS, ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_fault_still_fits(fault, tmp_path):
    name = f"{fault.module}.py"
    (tmp_path / name).write_text((ROOT / "dmplus" / name).read_text(encoding="utf-8"), encoding="utf-8")
    fault.apply(tmp_path)
    compile((tmp_path / name).read_text(encoding="utf-8"), name, "exec")
    assert (ROOT / "tests" / fault.tests.split("::")[0]).exists()
