"""The number of parameters of every model, to the last one."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy_kit.models import get_architecture, list_models
from tests.golden import golden
from tests.golden.golden import Golden

PARAMETERS = {
    "edgevit_xxs": 4_067_704,
    "edgevit_xs": 6_770_056,
    "edgevit_s": 13_108_168,
    "efficientformer_l1": 12_289_928,
    "efficientformer_l3": 31_406_000,
    "efficientformer_l7": 82_229_328,
    "efficientformerv2_s0": 3_600_256,
    "efficientformerv2_s1": 6_185_560,
    "efficientformerv2_s2": 12_710_112,
    "efficientformerv2_l": 26_322_288,
    "efficientvit_b0": 3_410_008,
    "efficientvit_b1": 9_102_024,
    "efficientvit_b2": 24_330_712,
    "efficientvit_b3": 48_646_056,
    "efficientvit_l1": 52_654_088,
    "efficientvit_l2": 63_707_016,
    "efficientvit_l3": 246_037_288,
    "efficientvit_seg_b0_cityscapes": 706_691,
    "efficientvit_seg_b1_cityscapes": 4_803_443,
    "efficientvit_seg_b2_cityscapes": 15_323_779,
    "efficientvit_seg_b3_cityscapes": 39_603_155,
    "efficientvit_seg_l1_cityscapes": 40_242_227,
    "efficientvit_seg_l2_cityscapes": 52_607_923,
    "efficientvit_seg_b1_ade20k": 4_791_414,
    "efficientvit_seg_b2_ade20k": 15_293_382,
    "efficientvit_seg_b3_ade20k": 39_546_198,
    "efficientvit_seg_l1_ade20k": 40_409_526,
    "efficientvit_seg_l2_ade20k": 51_462_454,
    "efficientvit_m0": 2_349_436,
    "efficientvit_m1": 2_980_560,
    "efficientvit_m2": 4_187_554,
    "efficientvit_m3": 6_900_722,
    "efficientvit_m4": 8_804_228,
    "efficientvit_m5": 12_473_772,
    "flatformer": 1_059_840,
    "levit_128s": 7_777_058,
    "levit_128": 9_213_936,
    "levit_192": 10_947_069,
    "levit_256": 18_893_876,
    "levit_384": 39_128_836,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v2_140": 6_108_776,
    "mobilenet_v3_large": 5_483_032,
    "mobilenet_v3_small": 2_542_856,
    "mobilevit_xxs": 1_272_024,
    "mobilevit_xs": 2_317_848,
    "mobilevit_s": 5_578_632,
    "poolformer_s12": 11_915_176,
    "poolformer_s24": 21_388_968,
    "poolformer_s36": 30_862_760,
    "poolformer_m36": 56_172_520,
    "poolformer_m48": 73_473_448,
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "swin_base": 87_768_224,
    "sparsevit_tiny": 27_520_698,
    "vit_base": 86_567_656,
    "deit_tiny": 5_717_416,
    "deit_small": 22_050_664,
    "deit_base": 86_567_656,
}
"""What the authors' own code has."""

GOLDEN = sorted(file.stem for file in Path(golden.__file__).parent.glob("*.npz"))


def test_no_model_is_left_out() -> None:
    assert set(PARAMETERS) == set(list_models())


@pytest.mark.parametrize("name", PARAMETERS)
def test_has_the_published_number_of_parameters(name: str) -> None:
    assert get_architecture(name).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_it_is_the_number_that_the_authors_code_had_when_its_golden_vectors_were_made(name: str) -> None:
    assert Golden.load(name).parameters == PARAMETERS[name]
