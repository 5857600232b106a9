from golden import CASES, FOLDER, manifests


def test_the_same_input_gives_the_published_manifests() -> None:
    written = manifests()
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(CASES)
    for case, text in written.items():
        assert text == (FOLDER / f"{case}.json").read_text(), case
