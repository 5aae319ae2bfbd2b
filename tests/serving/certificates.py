"""Certificates for tests, made when they are wanted."""

from pathlib import Path

import trustme


class Certificates:
    """An authority, a server's certificate and a client's, as PEM files."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.authority = trustme.CA()
        self.ca = str(directory / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca)
        self.server = self.issue(directory / "server", "localhost", "127.0.0.1")
        self.client = self.issue(directory / "client", "ann@example.org", common_name="ann")

    def issue(self, stem: Path, *names: str, common_name: str | None = None) -> tuple[str, str]:
        leaf = self.authority.issue_cert(*names, common_name=common_name)
        certificate, private_key = f"{stem}.pem", f"{stem}.key"
        with Path(certificate).open("wb") as stream:
            stream.writelines(blob.bytes() for blob in leaf.cert_chain_pems)
        leaf.private_key_pem.write_to_path(private_key)
        return certificate, private_key
