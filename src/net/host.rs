//! Which machine an address names.

use ureq::http::Uri;

/// The host in lower case, without the brackets of an IPv6 address.
pub(crate) fn host_of(uri: &Uri) -> Option<String> {
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    Some(host.to_ascii_lowercase())
}

/// Whether a host's name says that it is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address: Result<std::net::IpAddr, _> = host.parse();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
