"""One function removes, and nothing outside the folder that it is given."""

import ast
from pathlib import Path

import pytest

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.removal import remove, require_inside

ROOT = Path(__file__).resolve().parents[3]
REMOVES = {"rmtree", "unlink", "rmdir", "removedirs", "send2trash"}


@pytest.fixture
def out(tmp_path):
    """A run's folder, and beside it one with a file that belongs to somebody else."""
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    return tmp_path / "out"


def test_files_folders_and_what_is_not_there(out):
    (out / "file").write_text("x")
    (out / "folder" / "inner").mkdir(parents=True)
    for name in ("file", "folder", "nothing", "train/../nothing"):
        remove(out / name, inside=out)
    assert [path.name for path in out.iterdir()] == ["train"]


@pytest.mark.parametrize("link", ["train/link", "train/folder/link"])
def test_a_link_goes_and_what_it_leads_to_stays(out, link):
    """Also a link inside a folder that is removed."""
    path = out / link
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(out.parent / "mine")
    remove(out / "train" / link.split("/")[1], inside=out)
    assert not path.is_symlink()
    assert (out.parent / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize("path", ["../mine", "train/../../mine", "link/thesis.txt", "link/..", "..", ".", ""])
def test_what_is_outside_is_refused(out, path):
    (out / "link").symlink_to(out.parent / "mine")
    with pytest.raises(InputError, match="Nothing outside") as caught:
        remove(out / path, inside=out)
    assert all((caught.value.found, caught.value.where, caught.value.fix))
    assert (out.parent / "mine" / "thesis.txt").exists()
    assert out.is_dir()


def test_a_folder_that_is_a_link_itself_is_that_folder(out):
    """`out` may be a link: what is in it lies in it."""
    alias = out.parent / "alias"
    alias.symlink_to(out)
    remove(alias / "train", inside=alias)
    assert not (out / "train").exists()


def test_a_link_may_be_removed_and_not_written_through(out):
    (out / "link").symlink_to(out.parent / "mine")
    require_inside(out / "train" / "not yet there", out)
    with pytest.raises(InputError, match="Nothing outside"):
        require_inside(out / "link", out)


def uses(module: Path) -> set[str]:
    """Names of functions that remove files, called or handed on, `os.remove` among them."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            found |= {alias.name for alias in node.names} & (REMOVES | {"remove"})
        if isinstance(node, ast.Attribute) and (node.attr in REMOVES or ast.unparse(node) == "os.remove"):
            found.add(node.attr)
    return found


def test_no_other_code_removes():
    modules = [path for folder in ("schemas", "pipeline", "stages") for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)): names for path in modules if (names := uses(path))}
    assert found == {"stages/common/removal.py": {"rmtree", "unlink"}}, "call stages.common.removal.remove instead"
