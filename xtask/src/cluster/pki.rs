//! The cluster's certificate authority, certificates and keys, made anew for each cluster with openssl(1).
//! Who uses which certificate is said in [`super::config`]. Called by [`super::up`].

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use super::addresses::Addresses;
use crate::process;

/// The node's name, which its certificate carries.
pub(crate) const NODE_NAME: &str = "podlens-node";

const VALID_DAYS: &str = "30";

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
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let openssl = |arguments: &[&str]| {
        process::output(Command::new("openssl").current_dir(directory).args(arguments))
            .context("cannot make the cluster's certificates; openssl is needed (Debian: apt-get install openssl)")
    };
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority = [
        &["req", "-x509"],
        new_key.as_slice(),
        &["-keyout", "ca.key", "-out", "ca.crt", "-days", VALID_DAYS, "-subj", "/CN=podlens-cluster"],
    ];
    openssl(&authority.concat())?;
    for certificate in &CERTIFICATES {
        let key = format!("{}.key", certificate.file);
        let request = format!("{}.csr", certificate.file);
        let signed = format!("{}.crt", certificate.file);
        let extensions = format!("{}.ext", certificate.file);
        let subject = format!("/O={}/CN={}", certificate.organization, certificate.common_name);
        let ask = ["-keyout", &key, "-out", &request, "-subj", &subject];
        openssl(&[&["req"], new_key.as_slice(), &ask].concat())?;
        fs::write(directory.join(&extensions), extension_text(certificate, addresses))?;
        openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            VALID_DAYS,
            "-extfile",
            &extensions,
            "-out",
            &signed,
        ])?;
    }
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "service-account.key"])?;
    openssl(&["pkey", "-in", "service-account.key", "-pubout", "-out", "service-account.pub"])?;
    Ok(())
}

fn extension_text(certificate: &Certificate, addresses: &Addresses) -> String {
    let usage = match certificate.alternative_names {
        Some(names) => {
            let Addresses { service, node, loopback, .. } = addresses;
            let names = [("SERVICE", service), ("NODE", node), ("LOOPBACK", loopback)]
                .iter()
                .fold(names.to_owned(), |names, (place, address)| names.replace(place, &address.to_string()));
            format!("extendedKeyUsage=serverAuth\nsubjectAltName={names}\n")
        }
        None => "extendedKeyUsage=clientAuth\n".to_owned(),
    };
    format!("basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n{usage}")
}
