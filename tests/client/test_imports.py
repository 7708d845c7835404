"""Imports that run here and on the engines."""

import pytest

TIMEOUT = 10


def test_imports_run_here_and_on_the_engines(client, capsys):
    view = client[:]
    with view.sync_imports():
        import json as j
        import xml.dom.minidom
        from math import floor as rounded_down
        from math import pi, tau

        shift = pi  # other statements stay here
        if shift:
            import fractions
    assert (j.dumps(1), rounded_down(tau), xml.dom.minidom.__name__) == ("1", 6, "xml.dom.minidom")
    assert fractions.__name__ == "fractions"
    assert view["j.__name__"] == ["json"] * 2
    assert view.pull("rounded_down(tau + pi), xml.dom.minidom.__name__", block=True) == [(9, "xml.dom.minidom")] * 2
    for absent in ("shift", "json", "fractions"):
        with pytest.raises(NameError):
            client[0][absent]
    assert capsys.readouterr().out.splitlines() == [
        "import json as j on the engines",
        "import xml.dom.minidom on the engines",
        "from math import floor as rounded_down on the engines",
        "from math import pi, tau on the engines",
    ]


def test_the_innermost_block_counts_and_importer_is_the_same(client, capsys):
    with client[0].sync_imports(quiet=True), client[1].importer:
        import colorsys  # noqa: F401 - for the engines
    with client[0].sync_imports(quiet=True):
        import calendar  # noqa: F401 - for engine 0

        with client[1].sync_imports(quiet=True):
            import bisect  # noqa: F401 - for engine 1
    assert client[:]["colorsys.__name__"] == ["colorsys"] * 2
    assert client[0]["calendar.__name__"] == "calendar"
    assert client[1]["bisect.__name__"] == "bisect"
    with pytest.raises(NameError):
        client[0]["bisect"]
    assert capsys.readouterr().out == "import colorsys on the engines\n"


def test_what_failed_here_is_not_tried_there(client):
    with pytest.raises(ModuleNotFoundError), client[:].sync_imports(quiet=True):
        import no_such_module  # noqa: F401 - that is the point
    assert client.session.link.count == 0


def test_a_failure_there_is_told(client):
    client[:].execute("import builtins; __builtins__ = {}", block=True)  # an engine that cannot import
    with pytest.raises(Exception, match="__import__"), client[0].sync_imports(quiet=True):
        import stat  # noqa: F401 - for the engines


def test_what_cannot_be_done_is_said(client):
    with pytest.raises(RuntimeError, match="whose text can be read"):
        exec("with view.sync_imports():\n    import json", {"view": client[:]})
    with pytest.raises(RuntimeError, match="for a with statement"):
        client[:].sync_imports()
    with pytest.raises(ValueError, match="relative import"), client[:].sync_imports():
        from . import scripted_link  # noqa: F401, TID252 - that is the point
