"""The hub, through a pretended one."""

from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from freeflow_lightning import FlowMap
from freeflow_lightning.students.export import push_folder
from students.export import students


class PretendedHub(HfApi):
    """Keeps what is uploaded; or fails as it is told."""

    def __init__(self, error=None):
        super().__init__()
        self.repositories, self.files, self.error = {}, {}, error

    def create_repo(self, repo_id, *, private=None, exist_ok=False, **others):
        if self.error:
            raise self.error
        self.repositories[repo_id] = private

    def upload_folder(self, *, repo_id, folder_path, **others):
        files = {
            path.relative_to(folder_path).as_posix(): path.read_bytes()
            for path in folder_path.rglob("*")
            if path.is_file()
        }
        self.files[repo_id], self.others = files, others
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


def test_a_student_is_uploaded_with_its_card_and_picture(tmp_path):
    hub, made = PretendedHub(), students.sit()
    assert (
        made.push_to_hub("me/student", licence="mit", private=True, api=hub)
        == "https://hub/me/student/commit/1"
    )
    assert hub.repositories == {"me/student": True}
    files = hub.files["me/student"]
    assert files.keys() == {"README.md", "freeflow.json", "flow_map.safetensors", "samples.png"}
    front, _, text = files["README.md"].decode().removeprefix("---\n").partition("---\n")
    about = yaml.safe_load(front)
    assert about["license"] == "mit"
    assert "from_pretrained('me/student')" in text
    assert "whose licence is: mit" in text
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert FlowMap.from_pretrained(tmp_path).sample(3).equal(made.sample(3))


@pytest.mark.parametrize(
    ("licence", "front"),
    [
        ("unknown: ask", {"license": "unknown"}),
        ("cc-by-nc-4.0", {"license": "cc-by-nc-4.0"}),
        ("Only on Sundays", {"license": "other", "license_name": "Only on Sundays"}),
    ],
)
def test_the_licence_is_the_teachers(licence, front):
    hub = PretendedHub()
    students.sit().push_to_hub("me/student", licence=licence, api=hub)
    card = hub.files["me/student"]["README.md"].decode()
    about = yaml.safe_load(card.split("---\n")[1])
    assert {name: about.get(name) for name in front} == front
    assert f"whose licence is: {licence}." in card


def refused(status):
    response = SimpleNamespace(
        status_code=status, headers={}, request=None, url="", reason="", text="", json=dict
    )
    return HfHubHTTPError(f"{status} from the hub", response=response)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            LocalTokenNotFoundError("Token is required"),
            r"refused me/x \(Token is required\): log in with `hf auth login`",
        ),
        (refused(403), r"refused me/x \(.*403 from the hub.*\): log in with"),
        (refused(500), r"refused me/x \(.*500 from the hub.*\): try again"),
        (
            ConnectionError("Name or service not known"),
            r"cannot be reached \(ConnectionError: Name or .* `hf upload me/x ",
        ),
    ],
)
def test_the_hubs_errors_say_what_to_do(error, message, tmp_path):
    students.sit().save_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        push_folder(tmp_path / "out", "me/x", api=PretendedHub(error))


def test_a_damaged_folder_is_not_uploaded(tmp_path):
    students.sit().save_pretrained(tmp_path / "out")
    (tmp_path / "out" / "flow_map.safetensors").write_bytes(b"")
    hub = PretendedHub()
    with pytest.raises(
        ValueError, match=r"flow_map.safetensors in .* is not the file that was exported"
    ):
        push_folder(tmp_path / "out", "me/x", api=hub)
    assert not hub.files
    students.sit().save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"expected the repository as owner/name, got 'a/b/c'"):
        push_folder(
            tmp_path / "whole", "a/b/c", api=HfApi(token="none", endpoint="http://127.0.0.1:1")
        )


def test_a_student_comes_from_the_hub(tmp_path, monkeypatch):
    """Only what loading reads is fetched, and the repository may hold other files."""
    made, fetched = students.sit(), []
    made.save_pretrained(tmp_path / "out")

    def hub_file(repo_id, filename, *, revision=None, **others):
        fetched.append((repo_id, filename, revision))
        return tmp_path / "out" / filename

    monkeypatch.setattr("freeflow_lightning.teachers.reading.hub.hub_file", hub_file)
    assert FlowMap.from_pretrained("me/student", revision="v1").sample(2).equal(made.sample(2))
    assert fetched == [
        ("me/student", name, "v1") for name in ("freeflow.json", "flow_map.safetensors")
    ]


def test_what_the_hub_is_asked_for_is_passed_on(tmp_path, monkeypatch):
    hub, made, asked = PretendedHub(), students.sit(), []
    made.push_to_hub("me/x", commit_message="new", create_pr=True, revision="dev", api=hub)
    assert hub.others == {
        "commit_message": "new",
        "create_pr": True,
        "revision": "dev",
        "repo_type": None,
    }
    for name, content in hub.files["me/x"].items():
        (tmp_path / name).write_bytes(content)

    def download(repo_id, filename, **others):
        asked.append(others)
        return str(tmp_path / filename)

    monkeypatch.setattr("freeflow_lightning.teachers.reading.hub.hf_hub_download", download)
    opened = FlowMap.from_pretrained(
        "me/x",
        revision="dev",
        token="t",
        cache_dir="c",
        local_files_only=True,
        dtype=torch.bfloat16,
        device="cpu",
    )
    place = {"revision": "dev", "token": "t", "cache_dir": "c", "local_files_only": True}
    assert asked == [place, place]  # the manifest and the weights
    assert {weight.dtype for weight in opened.network.parameters()} == {torch.bfloat16}
    assert opened.sample(2).dtype == torch.float32
