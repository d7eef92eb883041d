//! Names in the code page of the first PCs (437), which is that of names in zips that don't say that they are UTF-8.

/// The letters with the numbers from 128 on.
const LETTERS: &str = "\
ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// A name as text.
pub(super) fn of_pc(name: &[u8]) -> String {
    let letter = |byte: &u8| match byte.checked_sub(128) {
        None => char::from(*byte),
        Some(high) => LETTERS.chars().nth(high.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
    };
    name.iter().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_a_letter() {
        assert_eq!(LETTERS.chars().count(), 128);
        assert_eq!(of_pc(b"a\x80\x81/\xe1\xff"), "a\u{c7}\u{fc}/\u{df}\u{a0}");
    }
}
