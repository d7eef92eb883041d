//! Query parameters that sign an address: they authorise a request and are no part of what it names.
//!
//! An object store's signed address differs each time it is made. So its signature is kept out of every name, log and
//! file, and travels with the [`Credentials`](crate::source::Credentials) instead.
//!
//! Names that mean something else elsewhere (`expires`, `se`) count only beside the signature that they belong to.

use percent_encoding::percent_decode_str;
use url::Url;

/// Beginnings of names that only signatures have: Amazon's and Google's fourth version.
const PREFIXES: [&str; 2] = ["x-amz-", "x-goog-"];

/// Names that are secret or part of a signature wherever they stand. Some stores' parameters begin like those of their
/// signatures and name another content (`x-oss-process`, `x-tos-process`), so these are listed one by one.
const ALWAYS: [&str; 46] = [
    "__token__",
    "access_token",
    "akamai_signature",
    "auth_key",
    "authorization",
    "awsaccesskeyid",
    "googleaccessid",
    "hdnea",
    "hdntl",
    "hdnts",
    "jwt",
    "ossaccesskeyid",
    "private_token",
    "q-ak",
    "q-header-list",
    "q-key-time",
    "q-sign-algorithm",
    "q-sign-time",
    "q-signature",
    "q-url-param-list",
    "temp_url_expires",
    "temp_url_prefix",
    "temp_url_sig",
    "x-cos-security-token",
    "x-obs-algorithm",
    "x-obs-credential",
    "x-obs-date",
    "x-obs-expires",
    "x-obs-security-token",
    "x-obs-signature",
    "x-obs-signedheaders",
    "x-oss-additional-headers",
    "x-oss-credential",
    "x-oss-date",
    "x-oss-expires",
    "x-oss-security-token",
    "x-oss-signature",
    "x-oss-signature-version",
    "x-tos-algorithm",
    "x-tos-credential",
    "x-tos-date",
    "x-tos-expires",
    "x-tos-security-token",
    "x-tos-signature",
    "x-tos-signedheaders",
    "x-xet-cas-uid",
];

/// Parameters that accompany `Signature`: Amazon's second version, CloudFront, Google's second version and its CDN, Alibaba's first,
/// Huawei, Kingsoft, UCloud.
const WITH_SIGNATURE: [&str; 10] = [
    "accesskeyid",
    "expires",
    "key-pair-id",
    "keyname",
    "kssaccesskeyid",
    "policy",
    "security-token",
    "signature",
    "ucloudpublickey",
    "urlprefix",
];

/// Parameters that accompany `sig`: Azure's shared access signatures, and what GitHub's registry adds to them.
const WITH_SIG: [&str; 25] = [
    "hmac", "saoid", "scid", "sdd", "sduoid", "se", "ses", "si", "sig", "sip", "ske", "skdutid", "skoid", "sks", "skt",
    "sktid", "skv", "sp", "spr", "sr", "srt", "ss", "st", "suoid", "sv",
];

/// The query without what signs it, empty if nothing else is in it; `None` if nothing signs it. `more` are further
/// names that sign, in lower case.
pub fn unsigned_query(query: &str, more: &[String]) -> Option<String> {
    let names: Vec<String> = query.split('&').map(name_of).collect();
    let has = |name: &str| names.iter().any(|other| other == name);
    let (signature, sig) = (has("signature"), has("sig"));
    let signs = |name: &str| {
        PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || ALWAYS.contains(&name)
            || (signature && WITH_SIGNATURE.contains(&name))
            || (sig && WITH_SIG.contains(&name))
            || more.iter().any(|other| other == name)
    };
    if !names.iter().any(|name| signs(name)) {
        return None;
    }
    let kept = query.split('&').zip(&names).filter(|(_, name)| !signs(name)).map(|(parameter, _)| parameter);
    Some(kept.collect::<Vec<_>>().join("&"))
}

/// Takes out of an address what signs it; returns the whole query if something did.
pub fn take(url: &mut Url, more: &[String]) -> Option<String> {
    let query = url.query()?.to_owned();
    let kept = unsigned_query(&query, more)?;
    url.set_query(Some(kept.as_str()).filter(|kept| !kept.is_empty()));
    Some(query)
}

/// True if `whole` is `kept` with more parameters in it: a signature is never used with another object's address.
pub fn belongs_to(whole: &str, kept: Option<&str>) -> bool {
    let mut all = whole.split('&');
    kept.is_none_or(|kept| kept.split('&').all(|parameter| all.any(|other| other == parameter)))
}

fn name_of(parameter: &str) -> String {
    let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
    percent_decode_str(name).decode_utf8_lossy().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsigned(query: &str) -> Option<String> {
        unsigned_query(query, &["tok".to_owned()])
    }

    #[test]
    fn signatures_of_every_store_are_told_from_what_names_an_object() {
        let cases = [
            ("X-Amz-Algorithm=A&X-Amz-Date=D&versionId=7&X-Amz-Signature=S", "versionId=7"),
            ("x-amz-signature=s", ""),
            ("X-Goog-Algorithm=A&X-Goog-Signature=S&generation=3", "generation=3"),
            ("AWSAccessKeyId=K&Expires=1&Signature=S&partNumber=2", "partNumber=2"),
            ("Policy=P&Signature=S&Key-Pair-Id=K&v=1", "v=1"),
            ("sv=2024&se=2026&sr=b&sp=r&sig=S&snapshot=x", "snapshot=x"),
            ("OSSAccessKeyId=K&Expires=1&Signature=S&x-oss-process=image", "x-oss-process=image"),
            ("x-oss-signature=s&x-oss-date=d&a", "a"),
            ("X-Tos-Algorithm=T&X-Tos-Date=D&X-Tos-Signature=S&x-tos-process=image", "x-tos-process=image"),
            ("X-Obs-Date=D&X-Obs-Signature=S&versionId=7", "versionId=7"),
            ("URLPrefix=U&Expires=1&KeyName=K&Signature=S&v=1", "v=1"),
            ("sp=r&se=2026&sig=S&jwt=J&v=1", "v=1"),
            ("X-Xet-Cas-Uid=U&X-Amz-Signature=S&x-id=GetObject", "x-id=GetObject"),
            ("__token__=exp=1~hmac=S&v=1", "v=1"),
            ("auth_key=1-0-0-S&hdnea=exp=1&akamai_signature=S", ""),
            // OpenStack's object store, Baidu's and Backblaze's, Kingsoft's, UCloud's, GitHub's registry.
            ("temp_url_sig=S&temp_url_expires=1&temp_url_prefix=p&filename=f", "filename=f"),
            ("authorization=bce-auth-v1%2FK%2F2026%2F1%2Fhost%2FS&v=1", "v=1"),
            ("KSSAccessKeyId=K&Expires=1&Signature=S&v=1", "v=1"),
            ("UCloudPublicKey=K&Expires=1&Signature=S&v=1", "v=1"),
            ("se=2026&sig=S&sp=r&sr=b&sv=2024&hmac=H&v=1", "v=1"),
            ("id=5&tok=abc", "id=5"),
            ("%58-Amz-Signature=s&b=2", "b=2"),
        ];
        for (query, kept) in cases {
            assert_eq!(unsigned(query).as_deref(), Some(kept), "{query}");
        }
        for plain in ["", "id=5", "expires=1", "se=2&st=3", "policy=x", "keyname=k", "signatures=1", "hmac=1"] {
            assert_eq!(unsigned(plain), None, "{plain}");
        }
    }

    #[test]
    fn a_signature_belongs_to_its_own_object() {
        assert!(belongs_to("a=1&sig=s&b=2", Some("a=1&b=2")));
        assert!(belongs_to("sig=s", None));
        assert!(!belongs_to("a=2&sig=s", Some("a=1")));
    }
}
