//! From a Linux boot image to the type information inside it.
//!
//! Pure: bytes in, bytes out. The image is a small loader and a compressed ELF file, which has the section
//! `.BTF`. Layout: <https://docs.kernel.org/arch/x86/boot.html>.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection};

const SETUP_SECTORS: usize = 0x1f1;
const SIGNATURE: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR_BYTES: usize = 512;
/// A real-mode part of zero sectors means four.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// The kernel's build appends the payload's length when unpacked.
const APPENDED_LENGTH_BYTES: usize = 4;
/// Far above any kernel, against a damaged length.
const LARGEST_KERNEL_BYTES: usize = 1 << 30;
const LZ4_BLOCK_BYTES: usize = 8 << 20;
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const ZSTANDARD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const BTF_MAGIC: [u8; 2] = [0x9f, 0xeb];

/// The section `.BTF` of the kernel in a boot image.
pub(super) fn type_information(image: &[u8]) -> Result<Vec<u8>> {
    let kernel = unpack(payload(image)?)?;
    let file = object::File::parse(kernel.as_slice()).context("the unpacked kernel is not an ELF file")?;
    let section = file
        .section_by_name(".BTF")
        .context("the kernel has no section .BTF: it was built without CONFIG_DEBUG_INFO_BTF")?;
    let bytes = section.data().context("the section .BTF is cut off")?;
    ensure!(bytes.starts_with(&BTF_MAGIC), "the section .BTF does not begin as BTF does");
    Ok(bytes.to_vec())
}

fn payload(image: &[u8]) -> Result<&[u8]> {
    ensure!(image.get(SIGNATURE..SIGNATURE + 4) == Some(b"HdrS"), "this is not a boot image of Linux for x86");
    let sectors = match image.get(SETUP_SECTORS) {
        None | Some(0) => DEFAULT_SETUP_SECTORS,
        Some(sectors) => *sectors,
    };
    let start = (usize::from(sectors) + 1) * SECTOR_BYTES + word(image, PAYLOAD_OFFSET)?;
    let length = word(image, PAYLOAD_LENGTH)?;
    image.get(start..start + length).context("the image is cut off inside its payload")
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>> {
    let (packed, length) = payload
        .len()
        .checked_sub(APPENDED_LENGTH_BYTES)
        .and_then(|end| payload.split_at_checked(end))
        .context("the payload is empty")?;
    let length = word(length, 0)?;
    ensure!(length <= LARGEST_KERNEL_BYTES, "the payload claims to unpack to {length} bytes");
    let kernel = match packed.first_chunk() {
        Some(&LZ4_LEGACY) => unpack_lz4(packed, length)?,
        Some(&ZSTANDARD) => unpack_zstandard(packed, length)?,
        magic => bail!(
            "the payload is packed in an unknown way, beginning {magic:02x?}; teach kernels/image.rs to unpack it"
        ),
    };
    ensure!(kernel.len() == length, "the payload unpacks to {} bytes, not {length}", kernel.len());
    Ok(kernel)
}

/// The old container of LZ4: its mark, then blocks of at most 8 MiB, each after its packed length.
fn unpack_lz4(packed: &[u8], length: usize) -> Result<Vec<u8>> {
    let mut kernel = vec![0; length];
    let (mut read, mut written) = (LZ4_LEGACY.len(), 0);
    while read < packed.len() {
        let block = read + 4;
        let end = block + word(packed, read)?;
        let input = packed.get(block..end).context("an LZ4 block is cut off")?;
        let room = kernel.get_mut(written..).unwrap_or_default();
        let room_bytes = room.len().min(LZ4_BLOCK_BYTES);
        let output = room.get_mut(..room_bytes).unwrap_or_default();
        written += lz4_flex::block::decompress_into(input, output).context("an LZ4 block is damaged")?;
        read = end;
    }
    kernel.truncate(written);
    Ok(kernel)
}

fn unpack_zstandard(packed: &[u8], length: usize) -> Result<Vec<u8>> {
    let mut kernel = Vec::with_capacity(length);
    ruzstd::decoding::StreamingDecoder::new(packed)
        .context("the Zstandard frame is damaged")?
        .take(length as u64 + 1)
        .read_to_end(&mut kernel)
        .context("the Zstandard frame is damaged")?;
    Ok(kernel)
}

fn word(bytes: &[u8], at: usize) -> Result<usize> {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
    let word = word.context("the image is cut off")?;
    Ok(u32::from_le_bytes(*word) as usize)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::{LZ4_LEGACY, PAYLOAD_LENGTH, SIGNATURE, ZSTANDARD, type_information, unpack};

    /// A boot image of one sector whose payload lies right behind it.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[super::SETUP_SECTORS] = 1;
        image[SIGNATURE..SIGNATURE + 4].copy_from_slice(b"HdrS");
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend(payload);
        image
    }

    /// Two blocks of literals only, each of one byte of token and its text.
    fn lz4(first: &str, second: &str) -> Vec<u8> {
        let mut packed = LZ4_LEGACY.to_vec();
        for text in [first, second] {
            let length = u8::try_from(text.len()).unwrap();
            packed.extend(u32::from(length + 1).to_le_bytes());
            packed.push(length << 4);
            packed.extend(text.as_bytes());
        }
        packed.extend(u32::try_from(first.len() + second.len()).unwrap().to_le_bytes());
        packed
    }

    #[test]
    fn all_blocks_of_an_lz4_payload_are_unpacked() {
        assert_eq!(unpack(&lz4("kernel ", "image")).unwrap(), b"kernel image");
    }

    #[test]
    fn what_is_no_kernel_is_refused_with_the_reason() {
        let zstandard = [&ZSTANDARD[..], &[0xff; 12], &[0; 4]].concat();
        let mut short = lz4("kernel ", "image");
        short.truncate(20);
        for (bytes, part) in [
            (vec![0; 4096], "not a boot image"),
            (image(&[])[..600].to_vec(), "cut off"),
            (image(&lz4("kernel", "image"))[..1030].to_vec(), "cut off inside its payload"),
            (image(&[0xff; 64]), "claims to unpack"),
            (image(&[0; 64]), "unknown way, beginning Some([00, 00, 00, 00])"),
            (image(&lz4("no", " elf")), "not an ELF file"),
            (image(&zstandard), "Zstandard frame is damaged"),
            (image(&short), "LZ4 block"),
        ] {
            let error = format!("{:#}", type_information(&bytes).unwrap_err());
            assert!(error.contains(part), "no `{part}` in {error}");
        }
    }
}
