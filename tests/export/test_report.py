import io

from rich.console import Console

from sharpose.bundle import open_bundle
from sharpose.export.parity import print_parity


def test_the_table_names_every_output_and_what_it_means_for_poses(tiny_bundle):
    report = open_bundle(tiny_bundle).manifest.parity["fp32"]
    changed = report.model_copy(
        update={"keypoint_pixels_p99": 0.25, "region_set_agreement": 0.75, "pictures": "blocks of colour"}
    )
    out = io.StringIO()
    print_parity("fp32", changed, Console(file=out, width=200))
    text = " ".join(out.getvalue().split())
    for item in report.outputs:
        assert f"{item.graph} {item.output}" in text
        assert f"{item.max_abs_difference:.2e}" in text
    assert "blocks of colour" in text
    assert "2.5e-01 px at the 99th percentile" in text
    assert "75.0%" in text
