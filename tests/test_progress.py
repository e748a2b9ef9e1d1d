import subprocess
import sys

from thfuse_sam.progress import progress_bar, reporting_to


def test_a_listener_hears_of_each_step_and_nothing_is_shown(capsys) -> None:
    seen: list[tuple[int, int | None]] = []
    with reporting_to(lambda done, total: seen.append((done, total))):
        assert list(progress_bar([7, 8])) == [7, 8]
        with progress_bar(total=9, initial=4, unit=" steps") as bar:
            bar.set_description("epoch", refresh=False)
            bar.set_postfix_str("loss", refresh=False)
            bar.update()
            bar.update(3)
        assert list(progress_bar(iter([7]))) == [7]
    assert seen == [(1, 2), (2, 2), (5, 9), (8, 9), (1, None)]
    assert capsys.readouterr() == ("", "")


def test_without_a_listener_there_is_a_bar(capsys) -> None:
    assert list(progress_bar([7, 8], desc="work", leave=True, disable=False)) == [7, 8]
    assert "work: 100%" in capsys.readouterr().err
    assert list(progress_bar([7, 8], desc="work")) == [7, 8]
    assert capsys.readouterr().err == "", "no terminal, so no bar"


def test_a_notebook_sees_bars_and_no_warning_about_widgets() -> None:
    code = """if True:
        import sys, types
        shell = types.SimpleNamespace(config={"IPKernelApp": 1})
        sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
        sys.modules |= {"ipykernel": sys, "ipykernel.zmqshell": sys, "ipywidgets": None}
        import thfuse_sam.downloads
        from thfuse_sam.progress import progress_bar
        list(progress_bar([7, 8], "work"))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "work:   0%" in done.stderr and "Warning" not in done.stderr
