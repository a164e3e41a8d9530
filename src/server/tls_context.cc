#include "server/tls_context.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <string_view>

#include "base/file.h"
#include "base/units.h"

namespace quipu {

namespace {

namespace ssl = boost::asio::ssl;
using boost::system::error_code;

constexpr uint64_t kPemBytesMax = kMiB;
// TLS 1.2 with forward secrecy and authenticated encryption; TLS 1.3 has nothing else.
// SOURCE: RFC 9325, section 4.2.
constexpr const char* kCiphers = "ECDHE+AESGCM:ECDHE+CHACHA20";

// Of the protocols that a client offers, HTTP/1.1 or none. SOURCE: RFC 7301.
int choose_protocol(SSL*, const unsigned char** chosen, unsigned char* chosen_size,
                    const unsigned char* offered, unsigned int offered_size, void*) {
  constexpr std::string_view kHttp11 = "http/1.1";
  for (unsigned int at = 0; at < offered_size; at += 1u + offered[at]) {
    if (at + 1u + offered[at] > offered_size) break;
    const std::string_view name(reinterpret_cast<const char*>(offered + at + 1), offered[at]);
    if (name != kHttp11) continue;
    *chosen = offered + at + 1;
    *chosen_size = offered[at];
    return SSL_TLSEXT_ERR_OK;
  }
  return SSL_TLSEXT_ERR_NOACK;
}

Status pem_error(const char* flag, const std::string& file, std::string_view what,
                 const error_code& error) {
  return make_error(ErrorCode::kInvalidArgument, "{}: {}: {} ({})", flag, file, what,
                    error.message());
}

Status load_certificate(const std::string& file, ssl::context& context) {
  const Result<std::string> text = read_file(file, kPemBytesMax);
  if (!text.ok()) return text.status().with_context("--ssl-cert-file");
  error_code error;
  context.use_certificate_chain(boost::asio::buffer(*text), error);
  if (!error) return Status::ok_status();
  return pem_error("--ssl-cert-file", file, "no certificate in PEM form can be read from it",
                   error);
}

Status load_key(const std::string& file, ssl::context& context) {
  const Result<std::string> text = read_file(file, kPemBytesMax);
  if (!text.ok()) return text.status().with_context("--ssl-key-file");
  if (text->find("ENCRYPTED") != std::string::npos) {
    return make_error(ErrorCode::kInvalidArgument,
                      "--ssl-key-file: {}: the key needs a passphrase; give one without, readable "
                      "for the server alone",
                      file);
  }
  error_code error;
  context.use_private_key(boost::asio::buffer(*text), ssl::context::pem, error);
  if (!error && SSL_CTX_check_private_key(context.native_handle()) == 1) return Status::ok_status();
  const int reason = error ? ERR_GET_REASON(static_cast<unsigned long>(error.value())) : 0;
  if (!error || reason == X509_R_KEY_VALUES_MISMATCH || reason == X509_R_KEY_TYPE_MISMATCH) {
    return make_error(ErrorCode::kInvalidArgument,
                      "--ssl-key-file: {}: the key belongs to another certificate than that of "
                      "--ssl-cert-file",
                      file);
  }
  return pem_error("--ssl-key-file", file, "no private key in PEM form can be read from it", error);
}

}  // namespace

Result<TlsContext> load_tls_context(const std::string& certificate_file,
                                    const std::string& key_file) {
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  SSL_CTX* const native = context->native_handle();
  SSL_CTX_set_min_proto_version(native, TLS1_2_VERSION);
  SSL_CTX_set_cipher_list(native, kCiphers);
  SSL_CTX_set_options(native, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
  // Idle streams hold no buffers of the library.
  SSL_CTX_set_mode(native, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_alpn_select_cb(native, choose_protocol, nullptr);
  QUIPU_RETURN_IF_ERROR(load_certificate(certificate_file, *context));
  QUIPU_RETURN_IF_ERROR(load_key(key_file, *context));
  return context;
}

bool is_plain_http(const boost::system::error_code& error) {
  return error.category() == boost::asio::error::get_ssl_category() &&
         ERR_GET_REASON(static_cast<unsigned long>(error.value())) == SSL_R_HTTP_REQUEST;
}

}  // namespace quipu
