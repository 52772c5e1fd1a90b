//! Host names in addresses.

use ureq::http::Uri;

/// Returns the host of `uri` in lower case, without the brackets of an IPv6 address.
pub(crate) fn host_of(uri: &Uri) -> Option<String> {
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    Some(host.to_ascii_lowercase())
}

/// Returns true if `host` is `localhost` or a loopback address.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address: Result<std::net::IpAddr, _> = host.parse();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
