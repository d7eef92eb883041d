//! Checksums that origins declare and no library here computes: MD5 (RFC 1321) and four CRCs. They detect bytes that were damaged in transit; none of them protects against an attacker.

/// A reflected CRC of 32 or 64 bits, with all bits set as the initial value and a final inversion.
pub(crate) struct Crc {
    table: [u64; 256],
    state: u64,
    bytes: usize,
}

impl Crc {
    /// The CRC of zip and PNG.
    pub(crate) fn ieee() -> Self {
        Self::of(0xedb8_8320, 4)
    }

    /// CRC-32C, of iSCSI.
    pub(crate) fn castagnoli() -> Self {
        Self::of(0x82f6_3b78, 4)
    }

    /// CRC-64/NVME, which S3 stores for uploads.
    pub(crate) fn nvme() -> Self {
        Self::of(0x9a6c_9329_ac4b_c9b5, 8)
    }

    /// CRC-64/XZ, with the polynomial of ECMA-182, which Alibaba's and Tencent's object stores use.
    pub(crate) fn ecma() -> Self {
        Self::of(0xc96c_5795_d787_0f42, 8)
    }

    fn of(polynomial: u64, bytes: usize) -> Self {
        let mut table = [0; 256];
        for (byte, entry) in (0_u64..).zip(&mut table) {
            *entry = (0..8).fold(byte, |crc, _| if crc & 1 == 1 { crc >> 1 ^ polynomial } else { crc >> 1 });
        }
        Self { table, state: u64::MAX >> (64 - 8 * bytes), bytes }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        for byte in data {
            let index = (self.state as u8 ^ byte) as usize;
            self.state = self.state >> 8 ^ self.table[index];
        }
    }

    /// The value, most significant byte first.
    pub(crate) fn finish(self) -> Vec<u8> {
        (!self.state).to_be_bytes()[8 - self.bytes..].to_vec()
    }
}

/// MD5.
pub(crate) struct Md5 {
    state: [u32; 4],
    block: Vec<u8>,
    length: u64,
}

const ROTATIONS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

impl Md5 {
    pub(crate) fn new() -> Self {
        let state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
        Self { state, block: Vec::with_capacity(64), length: 0 }
    }

    pub(crate) fn update(&mut self, mut data: &[u8]) {
        self.length += data.len() as u64;
        while !data.is_empty() {
            let (taken, rest) = data.split_at(data.len().min(64 - self.block.len()));
            self.block.extend_from_slice(taken);
            data = rest;
            if self.block.len() == 64 {
                self.mix();
            }
        }
    }

    pub(crate) fn finish(mut self) -> [u8; 16] {
        let bits = self.length.wrapping_mul(8).to_le_bytes();
        self.update(&[0x80]);
        while self.block.len() != 56 {
            self.update(&[0]);
        }
        self.update(&bits);
        let mut value = [0; 16];
        for (bytes, word) in value.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        value
    }

    /// Processes a full block.
    fn mix(&mut self) {
        let mut words = [0; 16];
        for (word, bytes) in words.iter_mut().zip(self.block.chunks_exact(4)) {
            *word = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        }
        self.block.clear();
        let [mut a, mut b, mut c, mut d] = self.state;
        for step in 0..64 {
            let (round, index) = match step / 16 {
                0 => ((b & c) | (!b & d), step),
                1 => ((d & b) | (!d & c), (5 * step + 1) % 16),
                2 => (b ^ c ^ d, (3 * step + 5) % 16),
                _ => (c ^ (b | !d), 7 * step % 16),
            };
            // The standard's table: 2^32 times the sine of the step's number.
            let constant = ((step + 1) as f64).sin().abs().mul_add(4_294_967_296.0, 0.0) as u32;
            let sum = a.wrapping_add(round).wrapping_add(constant).wrapping_add(words[index]);
            let turned = sum.rotate_left(ROTATIONS[step / 16][step % 4]);
            (a, d, c, b) = (d, c, b, b.wrapping_add(turned));
        }
        for (word, add) in self.state.iter_mut().zip([a, b, c, d]) {
            *word = word.wrapping_add(add);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values() {
        let md5 = |text: &str| {
            let mut hasher = Md5::new();
            text.as_bytes().chunks(7).for_each(|chunk| hasher.update(chunk));
            hasher.finish().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!(md5(""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(md5("message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
        let long = "12345678901234567890123456789012345678901234567890123456789012345678901234567890";
        assert_eq!(md5(long), "57edf4a22be3c955ac49da2e2107b67a");
        let crc = |mut crc: Crc| {
            b"123456789".chunks(4).for_each(|chunk| crc.update(chunk));
            crc.finish()
        };
        assert_eq!(crc(Crc::ieee()), 0xcbf4_3926_u32.to_be_bytes());
        assert_eq!(crc(Crc::castagnoli()), 0xe306_9283_u32.to_be_bytes());
        assert_eq!(crc(Crc::nvme()), 0xae8b_1486_0a79_9888_u64.to_be_bytes());
        assert_eq!(crc(Crc::ecma()), 0x995d_c9bb_df19_39fa_u64.to_be_bytes());
    }
}
