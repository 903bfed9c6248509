//! Who may read the page and press its buttons, judged by the head of a request. Pure.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{COOKIE, HOST, HeaderName, ORIGIN};

use super::sessions::Session;
use crate::gate::keys::{self, May};

/// Carries the token of the session, or `login` before there is one. A page of another origin cannot send it.
pub(super) const TOKEN: HeaderName = HeaderName::from_static("x-mlxctl-token");
/// The value of [`TOKEN`] before there is a session.
const LOGIN: &str = "login";

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reader {
    /// Someone on this machine, without a key.
    Local,
    /// Someone who has signed in with a key.
    Known(Session),
}

impl Reader {
    /// The session, if its key allows pressing buttons.
    pub(super) fn controls(&self) -> Option<&Session> {
        match self {
            Self::Known(session) if session.key.may == May::Control => Some(session),
            _ => None,
        }
    }
}

/// Whether a request comes from this machine itself. What a proxy forwards counts as coming from elsewhere.
pub(super) fn is_local(client: IpAddr, headers: &HeaderMap) -> bool {
    const FORWARDED: [&str; 4] = ["forwarded", "via", "x-forwarded-for", "x-real-ip"];
    client.is_loopback() && !FORWARDED.iter().any(|name| headers.contains_key(*name))
}

/// The cookie of this name; `None` if there is none, or more than one.
pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let all = headers.get_all(COOKIE).iter().filter_map(|header| header.to_str().ok());
    let mut found = all
        .flat_map(|header| header.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value);
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// Whether a browser says that another site made the request. Programs and old browsers do not say.
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    site.is_some_and(|site| site != b"same-origin" && site != b"none")
}

/// Whether a POST comes from this page: browsers send `Origin` with each, and it has to match `Host`.
pub(super) fn is_own(headers: &HeaderMap) -> bool {
    let only = |name: HeaderName| {
        let mut all = headers.get_all(name).iter();
        all.next().filter(|_| all.next().is_none())?.to_str().ok()
    };
    let (Some(origin), Some(host)) = (only(ORIGIN), only(HOST)) else { return false };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    !is_foreign(headers) && authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// Whether the page was loaded over TLS, through a proxy.
pub(super) fn is_secure(headers: &HeaderMap) -> bool {
    headers.get(ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
}

/// Whether [`TOKEN`] is that of the session or, without a session, [`LOGIN`].
pub(super) fn has_token(headers: &HeaderMap, session: Option<&Session>) -> bool {
    let given = headers.get(TOKEN).and_then(|token| token.to_str().ok()).unwrap_or_default();
    keys::same(given, session.map_or(LOGIN, |session| &session.token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_a_proxy_forwards_is_not_local() {
        let local = "127.0.0.1".parse().unwrap();
        assert!(is_local(local, &headers(&[])) && is_local("::1".parse().unwrap(), &headers(&[])));
        assert!(!is_local("192.168.1.7".parse().unwrap(), &headers(&[])));
        for name in ["forwarded", "x-forwarded-for", "x-real-ip", "via"] {
            assert!(!is_local(local, &headers(&[(name, "for=10.0.0.1")])), "{name}");
        }
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name_and_two_of_it_do_not_count() {
        let found = |text: &str| cookie(&headers(&[("cookie", text)]), "mlxctl-1").map(str::to_owned);
        assert_eq!(found("a=b; mlxctl-1=x; mlxctl-10=y").as_deref(), Some("x"));
        assert_eq!(found("mlxctl-10=y"), None);
        assert_eq!(found("mlxctl-1=x; mlxctl-1=y"), None);
    }

    #[test]
    fn only_this_page_posts_here() {
        let own = |lines: &[(&'static str, &str)]| is_own(&headers(lines));
        let host = ("host", "mac.local:9480");
        assert!(own(&[host, ("origin", "http://mac.local:9480")]));
        assert!(own(&[host, ("origin", "https://mac.local:9480"), ("sec-fetch-site", "same-origin")]));
        for origin in
            ["null", "http://mac.local", "http://mac.local:9481", "http://evil.example", "mac.local:9480", ""]
        {
            assert!(!own(&[host, ("origin", origin)]), "{origin}");
        }
        assert!(!own(&[host]) && !own(&[("origin", "http://mac.local:9480")]));
        // Another port of the same machine is another origin.
        assert!(!own(&[host, ("origin", "http://mac.local:9480"), ("sec-fetch-site", "same-site")]));
    }
}
