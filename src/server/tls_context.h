// The certificate and key of a server, checked, and the rules of TLS it keeps to.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <memory>
#include <string>

#include "base/status.h"

namespace quipu {

// Shared: by the server and by the connections that began with it.
using TlsContext = std::shared_ptr<boost::asio::ssl::context>;

// Paths of PEM files: the certificate with its chain, the server's own first, and its key.
// ERRORS: kNotFound, kIo (not readable); kInvalidArgument for what is no certificate or no key, for
// a key that needs a passphrase, and for one that belongs to another certificate.
Result<TlsContext> load_tls_context(const std::string& certificate_file,
                                    const std::string& key_file);

// Whether a handshake failed because the client spoke plain HTTP.
bool is_plain_http(const boost::system::error_code& error);

}  // namespace quipu
