//! Platforms: for which operating system and processor an image is, as people write it (`linux/arm64`, `linux/arm/v7`) and as an index names its
//! manifests.
//!
//! Pure. Spellings in use are taken for the same platform, as container engines take them: `x86_64` is `amd64`, `aarch64` is `arm64`, `arm64`
//! without a variant is `arm64/v8`, `arm` is `arm/v7`.

use std::fmt;
use std::str::FromStr;

use darter_core::Digest;
use serde::Deserialize;

/// An operating system and a processor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `amd64`, in one spelling.
    pub architecture: String,
    /// Such as `v7`; empty for the plainest.
    pub variant: String,
}

/// Why no manifest of an index was chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotChosen {
    /// The bytes are no index.
    #[error("its list of manifests can't be read")]
    Unreadable,
    /// It has none for that platform.
    #[error("it is for {}, and not for {wanted}", or_nothing(.there))]
    Other {
        /// The platform that was asked for.
        wanted: Platform,
        /// Those that there are.
        there: Vec<Platform>,
    },
}

fn or_nothing(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "no platform that it names".to_owned();
    }
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Platform {
    /// A platform in one spelling.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let [os, architecture, variant] = [os, architecture, variant].map(str::to_ascii_lowercase);
        let os = if os == "macos" { "darwin".to_owned() } else { os };
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386", ""),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf" | "arm", "7" | "v7") | ("armhf", "") => ("arm", ""),
            ("armel", "") => ("arm", "v6"),
            ("arm", "5" | "v5") => ("arm", "v5"),
            ("arm", "6" | "v6") => ("arm", "v6"),
            ("arm", "8" | "v8") => ("arm", "v8"),
            ("powerpc64" | "ppc64el", variant) => ("ppc64le", variant),
            (architecture, variant) => (architecture, variant),
        };
        Self { os, architecture: architecture.to_owned(), variant: variant.to_owned() }
    }

    /// This host's.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, "")
    }

    /// True if an image for `image` runs where this one is asked for: the same, or, where no variant is asked for, any variant of it.
    fn is_served_by(&self, image: &Self) -> bool {
        (&self.os, &self.architecture) == (&image.os, &image.architecture)
            && (self.variant.is_empty() || self.variant == image.variant)
    }

    /// The manifest of an index that is for this platform. Of several variants, the plainest runs everywhere.
    ///
    /// # Errors
    /// [`NotChosen`]. An index of one manifest that names no platform serves all.
    pub fn choose(&self, index: &[u8]) -> Result<Digest, NotChosen> {
        #[derive(Deserialize)]
        struct Index {
            manifests: Vec<Listed>,
        }
        #[derive(Deserialize)]
        struct Listed {
            digest: Digest,
            platform: Option<WrittenPlatform>,
        }
        let index: Index = serde_json::from_slice(index).map_err(|_| NotChosen::Unreadable)?;
        let alone = index.manifests.len() == 1;
        let mut there = Vec::new();
        let mut best: Option<(usize, Digest)> = None;
        for listed in index.manifests {
            let Some(named) = listed.platform else {
                if alone {
                    return Ok(listed.digest);
                }
                continue;
            };
            let platform = named.platform();
            // Attestations say so; they are no images.
            if platform.os == "unknown" {
                continue;
            }
            let rank = platform.variant.len();
            if self.is_served_by(&platform) && best.is_none_or(|(found, _)| rank < found) {
                best = Some((rank, listed.digest));
            }
            if !there.contains(&platform) {
                there.push(platform);
            }
        }
        best.map(|(_, digest)| digest).ok_or_else(|| NotChosen::Other { wanted: self.clone(), there })
    }

    /// True unless an image's configuration says that it is for another platform. Artifacts have none that does.
    ///
    /// # Errors
    /// [`NotChosen::Other`].
    pub fn check_config(&self, config: &[u8]) -> Result<(), NotChosen> {
        match serde_json::from_slice::<WrittenPlatform>(config) {
            Ok(named) if !named.os.is_empty() && !self.is_served_by(&named.platform()) => {
                Err(NotChosen::Other { wanted: self.clone(), there: vec![named.platform()] })
            }
            _ => Ok(()),
        }
    }
}

/// A platform, as documents write it.
#[derive(Deserialize)]
struct WrittenPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl WrittenPlatform {
    fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, &self.variant)
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split('/').collect();
        let is_word = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        };
        match parts.as_slice() {
            [os, architecture] if parts.iter().all(is_word) => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] if parts.iter().all(is_word) => Ok(Self::new(os, architecture, variant)),
            _ => Err(format!(
                "not a platform: {text:?} (OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64 or linux/arm/v6)"
            )),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::sha256(name.as_bytes())
    }

    fn listed(name: &str, platform: &Value) -> Value {
        json!({ "digest": digest(name), "platform": platform })
    }

    fn chosen(wanted: &str, manifests: &Value) -> Result<Digest, String> {
        let platform: Platform = wanted.parse().unwrap();
        platform.choose(json!({ "manifests": manifests }).to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_platform_has_several_spellings() {
        for (text, told) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm/7", "linux/arm"),
            ("linux/armhf", "linux/arm"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i686", "linux/386"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), told, "{text}");
        }
        for wrong in ["", "linux", "linux/", "/arm64", "linux/arm/v7/x", "linux/a b"] {
            let told = wrong.parse::<Platform>().unwrap_err();
            assert!(told.contains("linux/arm64"), "{told}");
        }
    }

    #[test]
    fn of_an_index_the_manifest_for_the_platform_is_taken_and_of_variants_the_plainest() {
        let linux = |architecture: &str, variant: &str| json!({ "os": "linux", "architecture": architecture, "variant": variant });
        let all = json!([
            listed("attestation", &json!({ "os": "unknown", "architecture": "unknown" })),
            listed("v3", &linux("amd64", "v3")),
            listed("amd64", &linux("amd64", "")),
            listed("arm64", &linux("arm64", "v8")),
            listed("v6", &linux("arm", "v6")),
            listed("v7", &linux("arm", "v7")),
            listed("windows", &json!({ "os": "windows", "architecture": "amd64", "os.version": "10.0" })),
        ]);
        for (wanted, name) in [
            ("linux/amd64", "amd64"),
            ("linux/amd64/v3", "v3"),
            ("linux/arm64", "arm64"),
            ("linux/arm", "v7"),
            ("linux/arm/v7", "v7"),
            ("linux/arm/v6", "v6"),
            ("windows/amd64", "windows"),
        ] {
            assert_eq!(chosen(wanted, &all), Ok(digest(name)), "{wanted}");
        }
        let told = chosen("linux/s390x", &all).unwrap_err();
        for there in ["linux/amd64", "linux/amd64/v3", "linux/arm64", "linux/arm/v6", "windows/amd64", "linux/s390x"] {
            assert!(told.contains(there), "{told}");
        }
        assert!(!told.contains("unknown"), "{told}");
    }

    #[test]
    fn an_index_of_one_manifest_serves_all_that_it_does_not_exclude() {
        assert_eq!(chosen("linux/arm64", &json!([{ "digest": digest("only") }])), Ok(digest("only")));
        let two = json!([{ "digest": digest("a") }, { "digest": digest("b") }]);
        assert!(chosen("linux/arm64", &two).unwrap_err().contains("no platform that it names"));
        assert_eq!(Platform::host().choose(b"{}"), Err(NotChosen::Unreadable));
    }

    #[test]
    fn a_configuration_that_names_another_platform_is_an_error_and_one_that_names_none_is_not() {
        let arm: Platform = "linux/arm64".parse().unwrap();
        assert!(arm.check_config(br#"{"os":"linux","architecture":"arm64","variant":"v8"}"#).is_ok());
        assert!(arm.check_config(b"{}").is_ok() && arm.check_config(b"no").is_ok());
        let told = arm.check_config(br#"{"os":"linux","architecture":"amd64"}"#).unwrap_err().to_string();
        assert_eq!(told, "it is for linux/amd64, and not for linux/arm64");
    }
}
