"""iPhones by the identifier that they give: what they are sold as, and their chip."""

from __future__ import annotations

IPHONES = {
    "iPhone10,3": ("iPhone X", "Apple A11 Bionic"),
    "iPhone10,6": ("iPhone X", "Apple A11 Bionic"),
    "iPhone11,2": ("iPhone XS", "Apple A12 Bionic"),
    "iPhone11,4": ("iPhone XS Max", "Apple A12 Bionic"),
    "iPhone11,6": ("iPhone XS Max", "Apple A12 Bionic"),
    "iPhone11,8": ("iPhone XR", "Apple A12 Bionic"),
    "iPhone12,1": ("iPhone 11", "Apple A13 Bionic"),
    "iPhone12,3": ("iPhone 11 Pro", "Apple A13 Bionic"),
    "iPhone12,5": ("iPhone 11 Pro Max", "Apple A13 Bionic"),
    "iPhone12,8": ("iPhone SE (2nd generation)", "Apple A13 Bionic"),
    "iPhone13,1": ("iPhone 12 mini", "Apple A14 Bionic"),
    "iPhone13,2": ("iPhone 12", "Apple A14 Bionic"),
    "iPhone13,3": ("iPhone 12 Pro", "Apple A14 Bionic"),
    "iPhone13,4": ("iPhone 12 Pro Max", "Apple A14 Bionic"),
    "iPhone14,2": ("iPhone 13 Pro", "Apple A15 Bionic"),
    "iPhone14,3": ("iPhone 13 Pro Max", "Apple A15 Bionic"),
    "iPhone14,4": ("iPhone 13 mini", "Apple A15 Bionic"),
    "iPhone14,5": ("iPhone 13", "Apple A15 Bionic"),
    "iPhone14,6": ("iPhone SE (3rd generation)", "Apple A15 Bionic"),
    "iPhone14,7": ("iPhone 14", "Apple A15 Bionic"),
    "iPhone14,8": ("iPhone 14 Plus", "Apple A15 Bionic"),
    "iPhone15,2": ("iPhone 14 Pro", "Apple A16 Bionic"),
    "iPhone15,3": ("iPhone 14 Pro Max", "Apple A16 Bionic"),
    "iPhone15,4": ("iPhone 15", "Apple A16 Bionic"),
    "iPhone15,5": ("iPhone 15 Plus", "Apple A16 Bionic"),
    "iPhone16,1": ("iPhone 15 Pro", "Apple A17 Pro"),
    "iPhone16,2": ("iPhone 15 Pro Max", "Apple A17 Pro"),
    "iPhone17,1": ("iPhone 16 Pro", "Apple A18 Pro"),
    "iPhone17,2": ("iPhone 16 Pro Max", "Apple A18 Pro"),
    "iPhone17,3": ("iPhone 16", "Apple A18"),
    "iPhone17,4": ("iPhone 16 Plus", "Apple A18"),
    "iPhone17,5": ("iPhone 16e", "Apple A18"),
    "iPhone18,1": ("iPhone 17 Pro", "Apple A19 Pro"),
    "iPhone18,2": ("iPhone 17 Pro Max", "Apple A19 Pro"),
    "iPhone18,3": ("iPhone 17", "Apple A19"),
    "iPhone18,4": ("iPhone Air", "Apple A19 Pro"),
}
"""Name and chip by ``ProductType``, from the iPhone X on."""


def name_of(product: str, told: str | None = None) -> str:
    """What a phone is sold as; what the tool ``told``, or the identifier, where it is not known here."""
    return IPHONES[product][0] if product in IPHONES else told or product


def chip_of(product: str) -> str | None:
    """The chip of a phone; None where it is not known here."""
    return IPHONES[product][1] if product in IPHONES else None
