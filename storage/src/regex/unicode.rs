//! The names after `\p`: Unicode's general categories by their short names and scripts by their
//! long ones, written exactly so. Other properties and other spellings are none.

use regex_syntax::hir::{Class, HirKind};

use super::ranges::{LAST, Ranges};

const CATEGORIES: [&str; 35] = [
    "Cc", "Cf", "Co", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl",
    "No", "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl",
    "Zp", "Zs", "Cs",
];

const SCRIPTS: &str = "
    Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali
    Bhaiksuki Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian
    Chakma Cham Cherokee Chorasmian Common Coptic Cuneiform Cypriot Cypro_Minoan Cyrillic Deseret
    Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic Garay
    Georgian Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi Gurmukhi Gurung_Khema Han
    Hangul Hanifi_Rohingya Hanunoo Hatran Hebrew Hiragana Imperial_Aramaic Inherited
    Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada Katakana Kawi Kayah_Li
    Kharoshthi Khitan_Small_Script Khmer Khojki Khudawadi Kirat_Rai Lao Latin Lepcha Limbu Linear_A
    Linear_B Lisu Lycian Lydian Mahajani Makasar Malayalam Mandaic Manichaean Marchen Masaram_Gondi
    Medefaidrin Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi
    Mongolian Mro Multani Myanmar Nabataean Nag_Mundari Nandinagari New_Tai_Lue Newa Nko Nushu
    Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Ol_Onal Old_Hungarian Old_Italic Old_North_Arabian
    Old_Permic Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Old_Uyghur Oriya Osage Osmanya
    Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan
    Saurashtra Sharada Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo Sundanese
    Sunuwar Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut
    Telugu Thaana Thai Tibetan Tifinagh Tirhuta Todhri Toto Tulu_Tigalari Ugaritic Vai Vithkuqi
    Wancho Warang_Citi Yezidi Yi Zanabazar_Square";

/// The code points that a name stands for.
pub(super) fn table(name: &str) -> Option<Ranges> {
    match name {
        "Any" => Some(Ranges::of(&[(0, LAST)])),
        // Surrogates, which no text has.
        "Cs" => Some(Ranges::default()),
        // Go leaves out what is not assigned.
        "C" => {
            let mut other = Ranges::default();
            for part in ["Cc", "Cf", "Co"] {
                other.add(&property("gc", part));
            }
            Some(other)
        }
        _ if CATEGORIES.contains(&name) => Some(property("gc", name)),
        _ if SCRIPTS.split_whitespace().any(|script| script == name) => Some(property("sc", name)),
        _ => None,
    }
}

fn property(property: &str, value: &str) -> Ranges {
    let hir = regex_syntax::parse(&format!(r"\p{{{property}={value}}}"));
    match hir.expect("every name listed here is known").into_kind() {
        HirKind::Class(Class::Unicode(class)) => Ranges::from(&class),
        // A class of one.
        HirKind::Literal(literal) => {
            let mut ranges = Ranges::default();
            for c in String::from_utf8_lossy(&literal.0).chars() {
                ranges.push(c.into(), c.into());
            }
            ranges
        }
        kind => unreachable!("a property is a class, not {kind:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_table() {
        for name in CATEGORIES.into_iter().chain(SCRIPTS.split_whitespace()).chain(["Any", "C"]) {
            assert!(table(name).is_some_and(|ranges| ranges.len() > 0 || name == "Cs"), "{name}");
        }
    }

    #[test]
    fn names_are_exact() {
        for name in ["greek", "GREEK", "Grek", "Emoji", "Letter", "Lowercase", "LC", "Cn", "lu", ""]
        {
            assert_eq!(table(name), None, "{name}");
        }
    }
}
