#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/units.h"

namespace quipu {

namespace {

Status open_error(const std::filesystem::path& path, int error) {
  const ErrorCode code = error == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo;
  return make_error(code, "{}: cannot open: {}", path.string(), std::strerror(error));
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return open_error(path, errno);
  struct stat info{};
  if (fstat(fd.get(), &info) != 0) return open_error(path, errno);
  if (!S_ISREG(info.st_mode)) {
    return make_error(ErrorCode::kIo, "{}: not a regular file", path.string());
  }
  MappedFile file;
  file.path_ = path;
  file.size_ = static_cast<size_t>(info.st_size);
  if (file.size_ == 0) return file;
  void* memory = mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (memory == MAP_FAILED) {
    return make_error(ErrorCode::kIo, "{}: cannot map: {}", path.string(), std::strerror(errno));
  }
  file.data_ = static_cast<const std::byte*>(memory);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(std::span<const std::byte> part) const {
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = round_up(reinterpret_cast<uintptr_t>(part.data()), kPage);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(part.data()) + part.size()) / kPage * kPage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

Result<std::string> read_file(const std::filesystem::path& path, uint64_t bytes_max) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return open_error(path, errno);
  std::string text;
  char buffer[1 << 16];
  while (true) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0) {
      if (errno == EINTR) continue;
      return make_error(ErrorCode::kIo, "{}: cannot read: {}", path.string(), std::strerror(errno));
    }
    if (n == 0) return text;
    if (text.size() + static_cast<size_t>(n) > bytes_max) {
      return make_error(ErrorCode::kResourceExhausted, "{}: larger than the limit of {}",
                        path.string(), format_bytes(bytes_max));
    }
    text.append(buffer, static_cast<size_t>(n));
  }
}

Result<AtomicFileWriter> AtomicFileWriter::create(const std::filesystem::path& path) {
  AtomicFileWriter writer;
  writer.path_ = path;
  writer.temporary_ = path;
  writer.temporary_ += fmt::format(".tmp-{}", getpid());
  writer.fd_ = ::open(writer.temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer.fd_ < 0) {
    return make_error(ErrorCode::kIo, "{}: cannot create: {}", path.string(), std::strerror(errno));
  }
  return writer;
}

AtomicFileWriter::AtomicFileWriter(AtomicFileWriter&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      fd_(std::exchange(other.fd_, -1)),
      bytes_written_(other.bytes_written_) {}

AtomicFileWriter::~AtomicFileWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

Status AtomicFileWriter::write(std::span<const std::byte> bytes) {
  QUIPU_CHECK(fd_ >= 0, "write after finish");
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      const ErrorCode code =
          errno == ENOSPC || errno == EDQUOT ? ErrorCode::kResourceExhausted : ErrorCode::kIo;
      return make_error(code, "{}: cannot write after {}: {}", path_.string(),
                        format_bytes(bytes_written_), std::strerror(errno));
    }
    bytes_written_ += static_cast<uint64_t>(n);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return Status::ok_status();
}

Status AtomicFileWriter::write(std::string_view text) {
  return write(std::as_bytes(std::span(text)));
}

Status AtomicFileWriter::finish() {
  QUIPU_CHECK(fd_ >= 0, "finish twice");
  const bool synced = fsync(fd_) == 0;
  const int error = errno;
  close(std::exchange(fd_, -1));
  if (!synced || rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int reason = synced ? errno : error;
    unlink(temporary_.c_str());
    return make_error(ErrorCode::kIo, "{}: cannot finish writing: {}", path_.string(),
                      std::strerror(reason));
  }
  return Status::ok_status();
}

}  // namespace quipu
