"""The page, made from real files of finished, failed, damaged and hostile stages."""

import base64
import copy
import io
import json
import random
import re
import shutil
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import synthetic_profile
from PIL import Image

from covidcxr import claims, outcomes, report, results
from covidcxr.errors import InputError

VOID = set("area base br col embed hr img input link meta source track wbr line rect ellipse".split())
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' onload='x' {{ 7 * 7 }} </textarea></style>"


class Page(HTMLParser):
    """Parses a page and keeps its elements; every element that is opened must be closed in its turn."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.stack: list[str] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self.feed(text)
        self.close()
        assert not self.stack, f"not closed: {self.stack}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-3:]}"
        self.stack.pop()

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def row(self, claim_id: str, source: str) -> str:
        """Text of a claim's row."""
        cut = re.search(rf'<tr role="row" id="{report.anchor(claim_id)}">(.*?)</tr>', source, flags=re.DOTALL)
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", cut[1]))


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return synthetic_profile.write(tmp_path_factory.mktemp("outputs") / "pilot")


@pytest.fixture(scope="module")
def source(profile):
    return report.build(profile).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def add_results(folder, **sections) -> None:
    """Write results.json of a finished stage with these sections."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"stage": folder.name, "data": "real", "seed": 0, "finished": True, "claims": [], "numbers": [], "tables": [],
               "figures": [], "datasets": [], **sections}
    (folder / "results.json").write_text(json.dumps(content))
    synthetic_profile.finish(folder)


def problems_of(folder):
    """What is wrong with a stage's files; the page over them must still be whole."""
    Page(report.render(folder.parent))
    return outcomes.read_stage(folder).problems


# ---- the page as a document --------------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_complete(page, source):
    assert source.startswith("<!DOCTYPE html>")
    assert page.all("html")[0]["lang"] == "en" and page.all("title")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name in claims.load().claims:
        assert report.anchor(name) in ids
    targets = {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")}
    assert targets <= set(ids), targets - set(ids)


def test_the_page_runs_nothing_and_loads_nothing(page, source):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "base", "form", "audio", "video", "use", "image"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "srcset", "data", "poster", "background"):
            assert attributes.get(name, "data:image/").startswith("data:image/"), (tag, name)
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style and "@import" not in style
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_every_picture_has_a_description_and_every_table_a_caption(page):
    assert len(page.all("img")) == 3 and all(image["alt"].strip() for image in page.all("img"))
    tags = [tag for tag, _ in page.elements]
    assert all(tags[index + 1] == "caption" for index, tag in enumerate(tags) if tag == "table")
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))


def test_headings_are_in_order_and_the_keyboard_reaches_everything(page):
    levels = [int(heading[1]) for heading in page.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    first_link = page.all("a")[0]
    assert first_link["class"] == "skip" and first_link["href"] == "#short"
    scrolled = [attributes for tag, attributes in page.elements if tag == "div" and attributes.get("class") == "scroll"]
    assert scrolled and all(box["tabindex"] == "0" and box["role"] == "region" and box["aria-label"] for box in scrolled)


def test_the_status_is_a_word_and_a_sign_not_only_a_colour(source):
    for status in ("match", "differs", "not comparable", "not run"):
        sign = report.SYMBOLS[status]
        assert re.search(rf'<span class="sign" aria-hidden="true">{re.escape(sign)}</span>{status}</span>', source)
    assert set(report.SYMBOLS) == set(claims.STATUSES) and len(set(report.SYMBOLS.values())) == len(report.SYMBOLS)


# ---- what it says ------------------------------------------------------------------------------------------------------------


def test_verdicts_and_their_counts_come_first(page, source, profile):
    text = page.text
    assert text.index("Verdicts on 209 claims") < text.index("What has been run") < text.index("Vignav Ramesh")
    study = outcomes.read_study()
    found = outcomes.assess(claims.load(), study, outcomes.read_profile(profile, study))
    counts = outcomes.counts(found)
    assert sum(counts.values()) == len(found) == 209
    assert counts["match"] == 3 and counts["differs"] == 3 and counts["phantom"] == 0 and counts["paper inconsistent"] == 3
    for word, count in counts.items():
        assert re.search(rf'<span class="count">{count}</span><span class="word">\S+ {word}</span>', source)


def test_a_claim_shows_paper_here_interval_n_seeds_and_trivial_predictors(page, source):
    row = page.row("zhang2020.diagnosis.accuracy.validation", source)
    for piece in ("0.9666", "0.9601", "[0.951, 0.969]", "n = 1919 images", "seeds 0, 1, 2", "majority class: 0.9312", "match",
                  "bootstrap over patients", "python -m covidcxr run pilot diagnosis"):
        assert piece in row, piece
    assert "differs" in page.row("ramesh2021.data.cxr_covid_positive", source)
    assert "no data No CT volumes." in page.row("ramesh2021.label_procedure", source)
    assert "The stage failed." in page.row("zhang2020.lung.iou.validation", source)
    assert "not run The stage has not been run." in page.row("yang2021.pr_auc.cam", source)


def test_a_figure_stands_once_and_its_claim_links_to_it(page, source):
    assert source.count('id="figure-ct-projection-conversion"') == 1
    assert '<a class="small" href="#figure-ct-projection-conversion">' in source
    assert "figure only" in page.row("ramesh2021.figure1", source)


def test_inconsistencies_show_their_arithmetic_worked_out(page):
    assert "823 + 821 + 607 = 2251 ; printed or implied: 2151" in page.text
    assert "(0.6143 * 150 + 1 * 71) / 221 = 0.7382" in page.text


def test_deviations_data_provenance_and_failures_are_named(page):
    text = page.text
    assert "Epochs, diagnosis : paper 2, here 4." in text
    assert "690, 53.0 MB" in text and "CC BY 4.0 (annotations)" in text
    assert "commit 0123abcd" in text and "numpy 1.26.4" in text
    assert "lung_segmentation failed cell 12" in text and "MemoryError: no" in text
    assert "agreement_nothing" in text and "Findings of the 100 X-rays." in text


def test_the_command_sets_what_was_set(tmp_path):
    folder = tmp_path / "pilot" / "start_here"
    add_results(folder)
    synthetic_profile.finish(folder, overrides=["start_here.data=my 'own' <data>"], keras_backend="jax")
    text = Page(report.render(folder.parent)).text
    command = results.run_command("pilot", "start_here", ["start_here.data=my 'own' <data>"])
    assert text.count(f"KERAS_BACKEND=jax {command}") == text.count(command) > 1 and "Keras on jax" in text
    for damaged in (3, "x", [1], {"a": 1}):
        synthetic_profile.finish(folder, overrides=damaged)
        text = Page(report.render(folder.parent)).text
        assert "run pilot start_here" in text and "--set" not in text


def test_the_phantom_is_announced_and_never_matches(tmp_path):
    profile = synthetic_profile.write(tmp_path / "demo", data="phantom:demo")
    source = report.render(profile)
    page = Page(source)
    assert "Made from the embedded phantom: shows that the machinery works, says nothing on the papers." in page.text
    assert "Pilot" not in page.text and "phantom" in page.row("ramesh2021.data.cxr_total", source)
    study = outcomes.read_study()
    counts = outcomes.counts(outcomes.assess(claims.load(), study, outcomes.read_profile(profile, study)))
    assert counts["match"] == counts["differs"] == 0 and counts["phantom"] == 9


def test_an_empty_or_missing_profile_gives_a_page(tmp_path):
    path = report.build(tmp_path / "nothing")
    page = Page(path.read_text())
    assert "No stage has finished yet" in page.text and not page.all("img")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_stage_that_failed_after_it_was_done_keeps_its_results_and_says_so(tmp_path):
    folder = tmp_path / "pilot" / "start_here"
    add_results(folder, claims=[{"id": "ramesh2021.data.cxr_total", "value": 100, "n": 100, "n_unit": "images"}])
    (folder / "failure.json").write_text(json.dumps({"status": "failed", "error": "OSError: disk"}))
    source = report.render(folder.parent)
    assert "match" in Page(source).row("ramesh2021.data.cxr_total", source)
    assert "a later run failed (OSError: disk)" in Page(source).text


# ---- hostile and damaged results ---------------------------------------------------------------------------------------------


def test_hostile_texts_stay_texts(tmp_path):
    folder = tmp_path / "pilot" / "start_here"
    (folder / "figures").mkdir(parents=True)
    (folder / "tables").mkdir()
    (folder / "figures" / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(3)</script></svg>")
    (folder / "tables" / "a.csv").write_text(f'"{HOSTILE.replace(chr(34), chr(34) * 2)}"\n1\n')
    texts = dict.fromkeys(("name", "n", "n_unit", "unit", "what", "why", "ci_method"), HOSTILE)
    add_results(
        folder,
        claims=[{**texts, "id": "ramesh2021.data.cxr_total", "value": 99, "trivial": {HOSTILE: 1}}],
        numbers=[{**texts, "value": 1}], tables=[{"name": "a", "file": "tables/a.csv", "caption": HOSTILE}],
        figures=[{"name": HOSTILE, "file": "figures/a.svg", "caption": HOSTILE, "alt": HOSTILE}],
        datasets=[{"name": HOSTILE, "files": HOSTILE, "bytes": HOSTILE, "sha256": HOSTILE, "licence": HOSTILE,
                   "source": "javascript:alert(4)"}],
        models=[{"file": "tables/a.csv", **dict.fromkeys(
            ("name", "what", "parameters", "start", "trained_on", "images", "epochs", "seconds", "limits"), HOSTILE)}],
    )
    synthetic_profile.finish(folder, parameters={HOSTILE: HOSTILE}, git={"commit": HOSTILE}, versions={HOSTILE: HOSTILE},
                             hardware={"cpu": HOSTILE}, upstream={HOSTILE: HOSTILE}, why=HOSTILE, started=HOSTILE)
    failure = dict.fromkeys(("error", "cell", "heading", "traceback", "command"), HOSTILE)
    (folder / "failure.json").write_text(json.dumps(failure))
    source = report.render(folder.parent)
    page = Page(source)
    assert not page.all("script") and not page.all("textarea")
    assert not [1 for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert all(not a["href"].startswith("javascript") for a in page.all("a"))
    picture = page.all("img")[0]
    assert base64.b64decode(picture["src"].partition("base64,")[2]).startswith(b"<svg") and picture["alt"] == HOSTILE
    assert "<script>alert(1)</script>" in page.text and "{{ 7 * 7 }}" in page.text  # shown, neither run nor worked out


VALUES = (None, True, -1, 0.5, 10**400, 1e308, "text", "", [], [1, "a"], {}, {"a": None}, [[]], "2\u00b2.3456789", HOSTILE)


def mutate(content, rng):
    """Change one value, anywhere in a JSON structure, into something else, or remove it."""
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(content)
    node, key = rng.choice(places)
    if rng.random() < 0.15:
        del node[key]
    else:
        node[key] = copy.deepcopy(rng.choice(VALUES))


@pytest.mark.parametrize("name", ["results.json", "run.json", "failure.json"])
def test_whatever_stands_in_the_files_there_is_a_page_and_no_match_for_it(tmp_path, profile, name):
    rng = random.Random(name)
    folder = shutil.copytree(profile, tmp_path / "pilot")
    stage = "lung_segmentation" if name == "failure.json" else "start_here"
    whole = (folder / stage / name).read_text()
    study = outcomes.read_study()
    for _ in range(25):
        content = json.loads(whole)
        for _ in range(rng.randint(1, 4)):
            mutate(content, rng)
        (folder / stage / name).write_text(json.dumps(content))
        Page(report.render(folder))
        found = outcomes.assess(claims.load(), study, outcomes.read_profile(folder, study))
        assert outcomes.counts(found)["match"] <= 3


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00\xff", '{"stage": "start_here"', '{"data": NaN}'])
def test_damaged_results_are_named_and_not_believed(tmp_path, content):
    folder = tmp_path / "pilot" / "start_here"
    synthetic_profile.finish(folder)
    (folder / "results.json").write_bytes(content.encode("latin-1"))
    source = report.render(folder.parent)
    page = Page(source)
    assert "start_here/results.json" in page.text and "could not be used" in page.text
    assert "not run" in page.row("ramesh2021.data.cxr_total", source)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"status": "perhaps"}'])
def test_a_damaged_completion_record_is_named(tmp_path, content):
    folder = tmp_path / "pilot" / "start_here"
    add_results(folder, claims=[{"id": "ramesh2021.data.cxr_total", "value": 100}])
    (folder / "run.json").write_text(content)
    source = report.render(folder.parent)
    assert "start_here/run.json" in Page(source).text
    assert "not run" in Page(source).row("ramesh2021.data.cxr_total", source)


@pytest.mark.parametrize(("section", "entry", "message"), [
    ("claims", {"id": "ramesh2021.none", "value": 1}, "No claim 'ramesh2021.none'"),
    ("claims", {"value": 1}, "no id"),
    ("claims", 3, "expected a mapping, found int"),
    ("claims", {"id": "ramesh2021.data.cxr_total", "value": "100"}, "value '100' is not a finite number"),
    ("claims", {"id": "ramesh2021.data.cxr_total", "value": float("inf")}, "value inf is not a finite number"),
    ("claims", {"id": "ramesh2021.data.cxr_total", "value": 1, "ci": [2, 1]}, "interval [2, 1] is not [low, high]"),
    ("claims", {"id": "ramesh2021.data.cxr_total", "value": 1, "ci": 5}, "interval 5 is not [low, high]"),
    ("claims", {"id": "ramesh2021.data.cxr_total", "value": 1, "trivial": [1]}, "trivial [1] is not a mapping"),
    ("claims", {"id": "ramesh2021.data.cxr_total", "value": 1, "trivial": 0.5}, "trivial 0.5 is not a mapping"),
    ("claims", {"id": "ramesh2021.data.cxr_total", "value": 10**400}, "is not a finite number"),
    ("claims", {"id": "ramesh2021.data.cxr_total", "value": 1, "seeds": 3}, "seeds 3 is not a list"),
    ("claims", {"id": "ramesh2021.data.cxr_total", "value": 1, "comparable": "no"}, "comparable 'no'"),
    ("numbers", {"value": 1}, "no name"),
    ("tables", {"name": "t", "file": "tables/none.csv"}, "tables/none.csv is missing"),
    ("figures", {"name": "f", "file": "../other/figure.png"}, "lies outside the stage's folder"),
    ("figures", {"name": "f", "file": "/etc/passwd"}, "lies outside the stage's folder"),
    ("figures", {"name": "f", "file": "a\0b"}, "null"),
    ("figures", {"name": "f"}, "no file"),
    ("datasets", {"files": 1}, "no name"),
    ("models", {"name": "m", "file": "checkpoints/none.weights.h5"}, "checkpoints/none.weights.h5 is missing"),
])
def test_wrong_entries_are_left_out_and_named(tmp_path, section, entry, message):
    folder = tmp_path / "pilot" / "start_here"
    add_results(folder, **{section: [entry]})
    (tmp_path / "pilot" / "other").mkdir()
    (tmp_path / "pilot" / "other" / "figure.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert any(message in problem for problem in problems_of(folder)), problems_of(folder)


def test_a_trained_model_has_a_card(tmp_path):
    stage = synthetic_profile.open_stage(tmp_path / "pilot", "start_here")
    (stage.folder / "net.weights.h5").write_bytes(b"0" * 2_500_000)
    stage.record_model("net", what="A small network", parameters=1234567, start="random", trained_on="lungs", images=7,
                       history=[{"seconds": 1.5}, {"seconds": 2.0}], file=stage.folder / "net.weights.h5", limits="Never tested.")
    stage.finish()
    synthetic_profile.finish(stage.folder)
    page = Page(report.render(tmp_path / "pilot"))
    for text in (f"A small network, {claims.number(1234567)} parameters", "7 images: lungs", "2 epochs in 3.5 s",
                 "Never tested. Not for clinical use.", "start_here/net.weights.h5, 2.5 MB"):
        assert "".join(text.split()) in "".join(page.text.split()), text
    with pytest.raises(InputError, match="no file in the stage's folder"):
        stage.record_model("net", what="a", parameters=1, start="b", trained_on="c", images=1, history=[], limits="d",
                           file=tmp_path)


def test_sections_of_the_wrong_type_and_results_of_another_stage_are_named(tmp_path):
    folder = tmp_path / "pilot" / "start_here"
    add_results(folder, claims={"id": 1}, data="imagined")
    assert len(problems_of(folder)) == 2
    add_results(folder, stage="label_generation")
    assert "it is of stage 'label_generation'" in problems_of(folder)[0]


def png(width, height, seed=0):
    """A PNG of noise, which can hardly be compressed."""
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), "uint8")
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def test_pictures_that_are_none_or_too_large_are_named_or_linked(tmp_path, monkeypatch):
    folder = tmp_path / "pilot" / "start_here"
    (folder / "figures").mkdir(parents=True)

    def chunk(side):
        content = b"IHDR" + side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
        return (13).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")

    files = {
        "a.png": b"GIF89a", "b.exe": b"MZ", "c.png": png(90, 90), "d.png": png(40, 30)[:500], "e.svg": b"<html>",
        # The first says that it has a million pixels a side, the second says so later. They must not be opened.
        "f.png": b"\x89PNG\r\n\x1a\n" + chunk(10**6), "j.png": png(4, 3)[:8] + chunk(4) + chunk(10**6), "k.png": png(9000, 1),
        "g.png": png(4, 3), "h.svg": b"<svg viewBox='0 0 1 1'/>", "i.svg": b"<svg>" + bytes(4000),
    }  # fmt: skip
    for name, content in files.items():
        (folder / "figures" / name).write_bytes(content)
    add_results(folder, figures=[{"name": name[0], "file": f"figures/{name}"} for name in files])
    monkeypatch.setattr(report, "PICTURE_BYTES", 4000)
    page = Page(report.render(folder.parent))
    embedded = [image["src"].partition(";")[0] for image in page.all("img")]
    assert embedded == ["data:image/webp", "data:image/svg+xml"]
    assert "b.exe: only PNG and SVG" in page.text and "e.svg is no SVG picture, or is damaged." in page.text
    for name in ("a.png", "d.png", "f.png", "j.png", "k.png"):
        assert f"{name} is no PNG picture, has a side of more than 8000 pixels, or is damaged." in page.text
    linked = {a["href"] for a in page.all("a") if "/figures/" in a["href"]}
    assert linked == {f"start_here/figures/{name}" for name in ("c.png", "g.png", "h.svg", "i.svg")}
    assert page.text.count("Left out") == 2


def test_every_picture_stands_in_the_page_as_long_as_there_is_room(tmp_path, monkeypatch):
    folder = tmp_path / "pilot" / "start_here"
    (folder / "figures").mkdir(parents=True)
    for k in range(4):
        (folder / "figures" / f"noise{k}.png").write_bytes(png(120, 80, k))
    add_results(folder, figures=[{"name": f"noise{k}", "file": f"figures/noise{k}.png"} for k in range(4)])
    whole = Page(report.render(folder.parent)).all("img")
    pictures = [base64.b64decode(image["src"].partition(",")[2]) for image in whole]
    assert len(pictures) == 4
    for k, picture in enumerate(pictures):
        shown = np.asarray(Image.open(io.BytesIO(picture)).convert("L"), float)
        kept = np.asarray(Image.open(folder / "figures" / f"noise{k}.png").convert("L"), float)
        assert shown.shape == kept.shape and np.corrcoef(shown.ravel(), kept.ravel())[0, 1] > 0.9
    clear = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    clear.save(folder / "figures" / "clear.png")
    kept = Image.open(io.BytesIO(report.as_webp((folder / "figures" / "clear.png").read_bytes())))
    assert np.asarray(kept.convert("RGBA"))[..., 3].max() == 0, "what was transparent has turned black"
    monkeypatch.setattr(report, "PAGE_PICTURE_BYTES", sum(map(len, pictures[:2])))
    assert len(Page(report.render(folder.parent)).all("img")) == 2


def test_long_tables_are_cut_and_counted(tmp_path):
    folder = tmp_path / "pilot" / "start_here"
    (folder / "tables").mkdir(parents=True)
    rows = ["x," * 19 + "last", *(f"{row}," * 19 + "0.123456789" for row in range(100)), "short"]
    (folder / "tables" / "t.csv").write_text("\n".join(rows))
    add_results(folder, tables=[{"name": "t", "file": "tables/t.csv", "caption": "A long table."}])
    page = Page(report.render(folder.parent))
    assert f"{101 - report.TABLE_ROWS} more rows and {20 - report.TABLE_COLUMNS} more columns" in page.text
    assert len([1 for tag, _ in page.elements if tag == "td"]) > report.TABLE_ROWS * report.TABLE_COLUMNS


def test_long_numbers_in_tables_are_rounded_and_other_texts_are_not(tmp_path):
    folder = tmp_path / "pilot" / "start_here"
    (folder / "tables").mkdir(parents=True)
    (folder / "tables" / "t.csv").write_text("a,b,c,d\n7.913941613776468e-06,-0.123456789,1.2.3.4.5.6,20200401.e")
    add_results(folder, tables=[{"name": "t", "file": "tables/t.csv", "caption": "Numbers."}])
    text = Page(report.render(folder.parent)).text
    assert all(shown in text for shown in ("7.9e\N{MINUS SIGN}06", "\N{MINUS SIGN}0.1235", "1.2.3.4.5.6", "20200401.e"))


def test_a_claim_of_another_stage_is_named_and_its_figure_not_lost(tmp_path):
    folder = tmp_path / "pilot" / "start_here"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    figure = {"name": "a", "file": "figures/a.svg", "alt": "A figure.", "caption": "C.", "reproduces": "ramesh2021.figure1"}
    add_results(folder, claims=[{"id": "zhang2020.data.total", "value": 6504}], figures=[figure])
    source = report.render(folder.parent)
    page = Page(source)
    assert "start_here/results.json records zhang2020.data.total, which lung_segmentation owes." in page.text
    assert "not run" in page.row("zhang2020.data.total", source) and "not run" in page.row("ramesh2021.figure1", source)
    assert [image["alt"] for image in page.all("img")] == ["A figure."]


def test_results_of_a_hand_run_count_only_when_asked_for(tmp_path):
    folder = tmp_path / "interactive" / "start_here"
    add_results(folder, claims=[{"id": "ramesh2021.data.cxr_total", "value": 100}])
    (folder / "run.json").unlink()
    assert outcomes.read_stage(folder).state.status == "unfinished"
    by_hand = outcomes.read_stage(folder, need_run=False)
    assert by_hand.state == claims.StageState("done", "real") and "ramesh2021.data.cxr_total" in by_hand.claims


def test_the_page_replaces_an_older_one_at_once(tmp_path):
    old = report.build(tmp_path / "pilot").read_text()
    add_results(tmp_path / "pilot" / "start_here", claims=[{"id": "ramesh2021.data.cxr_total", "value": 100}])
    assert report.build(tmp_path / "pilot").read_text() != old
    assert not list((tmp_path / "pilot").glob(".*.tmp"))


def test_a_strip_places_paper_here_and_trivial_predictors():
    claim = claims.load().claim("gaikwad2020.ap.infection")
    row = outcomes.Assessment(claim, "s", "match", "", {"value": 80.0, "ci": [75.0, 85.0], "trivial": {"nothing": 0.0}})
    assert report.strip(row) == {
        "paper": 78.37, "paper_interval": [], "here": 80.0, "here_interval": [75.0, 85.0], "trivial": [0.0], "full": 100.0,
    }
    outside = outcomes.Assessment(claim, "s", "match", "", {"value": 120.0, "ci": None, "trivial": None})
    assert report.strip(outside) is None
