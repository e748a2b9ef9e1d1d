import json

import numpy as np
from pycocotools import mask as coco_mask

from thfuse_sam.masks.rle import decode_rle, encode_rle


def test_an_encoded_mask_is_json_and_decodes_to_itself() -> None:
    mask = np.random.default_rng(0).random((7, 11)) < 0.4
    encoded = encode_rle(mask)
    assert encoded["size"] == [7, 11]
    assert json.loads(json.dumps(encoded)) == encoded
    np.testing.assert_array_equal(decode_rle(encoded, (7, 11)), mask)
    assert coco_mask.area(encoded) == mask.sum()
