from model.causal_proof import CUTS, control_sites
from model.sides import kind_of
from model.taps import sites

DECLARED = sites(4)


def test_controls_are_of_the_same_kind_in_the_nearest_layers() -> None:
    named = ["layers.1.ffn_up", "layers.2.ffn_up"]

    assert control_sites(named, 4, DECLARED) == ["layers.0.ffn_up", "layers.3.ffn_up"]


def test_where_all_of_a_kind_are_named_others_serve() -> None:
    named = [f"layers.{n}.{kind}" for n in range(4) for kind in ("q_rope", "k_rope")]

    found = control_sites(named, 4, DECLARED)

    assert len(set(found)) == 8
    assert not set(found) & set(named)


def test_no_control_undoes_everything_before_it() -> None:
    for named in (["embed"], ["logits"], ["layers.2.output"], ["final_norm", "layers.0.ffn_inp"]):
        found = control_sites(named, 4, DECLARED)
        assert len(found) == len(named)
        assert not {kind_of(site) for site in found} & set(CUTS)


def test_a_control_is_declared() -> None:
    declared = {site: path for site, path in DECLARED.items() if not site.endswith("ffn_silu")}

    named = [f"layers.{n}.ffn_gate" for n in range(4)]
    assert set(control_sites(named, 4, declared)) <= declared.keys()
