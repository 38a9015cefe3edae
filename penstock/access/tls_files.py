"""The files of certificates and keys that the URL of Redis names."""

import ssl
from collections.abc import Mapping


def check_files(options: Mapping[str, str]) -> None:
    """Read the files that TLS needs. Raises `ValueError`, whose message names the option.

    Without this check every connection would fail, with an error that names no file.
    """
    if not options:
        return
    context = ssl.create_default_context()
    name = ""
    try:
        for name in ("ssl_ca_certs", "ssl_ca_path"):
            if path := options.get(name):
                is_folder = name == "ssl_ca_path"
                context.load_verify_locations(**{"capath" if is_folder else "cafile": path})
        if path := options.get(name := "ssl_certfile"):
            # Without a password OpenSSL would ask for one at the terminal.
            password = options.get("ssl_password", "")
            context.load_cert_chain(path, options.get("ssl_keyfile"), password=lambda: password)
    except ssl.SSLError as error:
        what = "the certificate, its key or ssl_password" if name == "ssl_certfile" else "the file"
        raise ValueError(f"{name}: {what} cannot be used ({error.reason or 'not PEM'})") from None
    except OSError as error:
        raise ValueError(f"{name}: {options[name]} cannot be read ({error.strerror})") from None
