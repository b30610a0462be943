//! The cluster's certificate authority, certificates and keys, made anew for each cluster with openssl(1).
//! Who uses which certificate is said in [`super::config`]. Called by [`super::up`]; checks make authorities of their own.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::addresses::Addresses;
use crate::process;

/// The node's name, which its certificate carries.
pub(crate) const NODE_NAME: &str = "podlens-node";

const VALID_DAYS: &str = "30";
const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
const OF_EACH: &str = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n";

struct Certificate {
    file: &'static str,
    /// The user that the API server sees.
    common_name: &'static str,
    /// The group that the API server sees.
    organization: &'static str,
    /// `SERVICE`, `NODE` and `LOOPBACK` stand for those addresses.
    alternative_names: Option<&'static str>,
}

const CERTIFICATES: [Certificate; 7] = [
    Certificate {
        file: "apiserver",
        common_name: "kube-apiserver",
        organization: "podlens",
        alternative_names: Some("DNS:kubernetes.default.svc,DNS:localhost,IP:SERVICE,IP:NODE,IP:LOOPBACK"),
    },
    Certificate {
        file: "kubelet-server",
        common_name: "system:node:podlens-node",
        organization: "system:nodes",
        alternative_names: Some("DNS:podlens-node,IP:NODE"),
    },
    client("admin", "podlens-admin", "system:masters"),
    client("apiserver-kubelet", "kube-apiserver-kubelet", "system:masters"),
    client("controller-manager", "system:kube-controller-manager", "podlens"),
    client("scheduler", "system:kube-scheduler", "podlens"),
    client("kubelet", "system:node:podlens-node", "system:nodes"),
];

const fn client(file: &'static str, common_name: &'static str, organization: &'static str) -> Certificate {
    Certificate { file, common_name, organization, alternative_names: None }
}

/// Writes ca.crt, a .crt and .key for each certificate, and the key that signs service account tokens.
pub(crate) fn make(directory: &Path, addresses: &Addresses) -> Result<()> {
    let authority = Authority::new(directory, "podlens-cluster")?;
    for certificate in &CERTIFICATES {
        let subject = format!("/O={}/CN={}", certificate.organization, certificate.common_name);
        authority.issue(certificate.file, &subject, &extension_text(certificate, addresses))?;
    }
    let key = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "service-account.key"];
    authority.openssl(&key)?;
    authority.openssl(&["pkey", "-in", "service-account.key", "-pubout", "-out", "service-account.pub"])
}

/// One who signs certificates, in a folder of its own.
#[derive(Debug)]
pub(crate) struct Authority {
    directory: PathBuf,
}

impl Authority {
    /// Makes one: ca.crt, ca.key.
    pub(crate) fn new(directory: &Path, common_name: &str) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let authority = Self { directory: directory.to_owned() };
        let subject = format!("/CN={common_name}");
        let files = ["-keyout", "ca.key", "-out", "ca.crt", "-days", VALID_DAYS, "-subj", &subject];
        authority.openssl(&[&["req", "-x509"], &NEW_KEY[..], &files].concat())?;
        Ok(authority)
    }

    /// Writes FILE.crt and FILE.key.
    pub(crate) fn issue(&self, file: &str, subject: &str, extensions: &str) -> Result<()> {
        let [key, request, signed, wanted] = ["key", "csr", "crt", "ext"].map(|kind| format!("{file}.{kind}"));
        let ask = ["-keyout", &key, "-out", &request, "-subj", subject];
        self.openssl(&[&["req"], &NEW_KEY[..], &ask].concat())?;
        fs::write(self.directory.join(&wanted), extensions)?;
        let by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", VALID_DAYS];
        let files = ["-extfile", &wanted, "-out", &signed];
        self.openssl(&[&["x509", "-req", "-in", &request], &by[..], &files].concat())
    }

    fn openssl(&self, arguments: &[&str]) -> Result<()> {
        process::output(Command::new("openssl").current_dir(&self.directory).args(arguments))
            .context("cannot make certificates; openssl is needed (Debian: apt-get install openssl)")
            .map(drop)
    }
}

/// The extensions of a server's certificate with these names, such as `DNS:a,IP:10.0.0.1`.
pub(crate) fn of_server(names: &str) -> String {
    format!("{OF_EACH}extendedKeyUsage=serverAuth\nsubjectAltName={names}\n")
}

/// The extensions of a client's certificate.
pub(crate) fn of_client() -> String {
    format!("{OF_EACH}extendedKeyUsage=clientAuth\n")
}

fn extension_text(certificate: &Certificate, addresses: &Addresses) -> String {
    let Some(names) = certificate.alternative_names else { return of_client() };
    let Addresses { service, node, loopback, .. } = addresses;
    let places = [("SERVICE", service), ("NODE", node), ("LOOPBACK", loopback)];
    let put = |names: String, (place, address): &(&str, &IpAddr)| names.replace(place, &address.to_string());
    of_server(&places.iter().fold(names.to_owned(), put))
}
