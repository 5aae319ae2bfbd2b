// Callers of a server that cost it as little of the machine as can be: one thread, one connection a caller, every
// caller one query after the other, each from its own place in a file of prepared requests.
//
//   serve_load MODE ADDRESS:PORT PATH REQUESTS CALLERS SECONDS RATE REPLIES
//
// MODE is grpc (HTTP/2 by nghttp2, PATH is the RPC), redis or postgres (the request as it stands, PATH is "-", for
// postgres USER/DATABASE). REQUESTS and REPLIES are records: number (4 bytes), length (4 bytes), content; little-endian;
// what has the number 2^32 - 1 is sent once on every connection.
// RATE is how many queries a second all callers together ask, evenly; what waits because the reply before was late counts
// from when it was due. 0: every caller asks again when it has its reply.
// REPLIES receives the first reply to each request that was asked; one JSON object goes to standard output.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using Clock = std::chrono::steady_clock;

static int dial(const std::string& address) {
  auto colon = address.rfind(':');
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_port = htons(std::stoi(address.substr(colon + 1)));
  if (inet_pton(AF_INET, address.substr(0, colon).c_str(), &place.sin_addr) != 1)
    throw std::runtime_error("not an IPv4 address: " + address);
  int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd, reinterpret_cast<sockaddr*>(&place), sizeof place)) throw std::runtime_error("cannot connect");
  return fd;
}

// One connection: send() begins a request, receive() takes what has come and says whether the reply is whole.
struct Connection {
  int fd;
  std::string reply;
  bool failed = false;
  explicit Connection(const std::string& address) : fd(dial(address)) {}
  virtual ~Connection() { close(fd); }
  virtual void send(const std::string& request) = 0;
  virtual bool receive() = 0;

  void write_all(const std::string& bytes) {
    for (size_t done = 0; done < bytes.size();) {
      ssize_t n = ::write(fd, bytes.data() + done, bytes.size() - done);
      if (n <= 0) throw std::runtime_error("the server closed the connection");
      done += n;
    }
  }
  size_t read_some(char* into, size_t size) {
    ssize_t n = ::read(fd, into, size);
    if (n <= 0) throw std::runtime_error("the server closed the connection");
    return n;
  }
};

struct Grpc : Connection {
  nghttp2_session* session = nullptr;
  std::string authority, path, body;
  size_t sent = 0;
  bool done = false;

  Grpc(const std::string& address, const std::string& path) : Connection(address), authority(address), path(path) {
    nghttp2_session_callbacks* calls;
    nghttp2_session_callbacks_new(&calls);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        calls, [](nghttp2_session*, uint8_t, int32_t, const uint8_t* data, size_t n, void* self) {
          static_cast<Grpc*>(self)->reply.append(reinterpret_cast<const char*>(data), n);
          return 0;
        });
    nghttp2_session_callbacks_set_on_header_callback(
        calls, [](nghttp2_session*, const nghttp2_frame*, const uint8_t* name, size_t n, const uint8_t* value, size_t m,
                  uint8_t, void* self) {
          if (n == 11 && !memcmp(name, "grpc-status", 11) && !(m == 1 && *value == '0'))
            static_cast<Grpc*>(self)->failed = true;
          return 0;
        });
    nghttp2_session_callbacks_set_on_stream_close_callback(
        calls, [](nghttp2_session*, int32_t, uint32_t code, void* self) {
          static_cast<Grpc*>(self)->done = true;
          if (code != NGHTTP2_NO_ERROR) static_cast<Grpc*>(self)->failed = true;
          return 0;
        });
    nghttp2_session_client_new(&session, calls, this);
    nghttp2_session_callbacks_del(calls);
    nghttp2_settings_entry window{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 24};
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, &window, 1);
    nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, 1 << 30);
  }
  ~Grpc() override { nghttp2_session_del(session); }

  void send(const std::string& request) override {
    uint32_t n = request.size();
    body = {'\0', char(n >> 24), char(n >> 16), char(n >> 8), char(n)};
    body += request;
    sent = 0, done = failed = false;
    reply.clear();
    auto header = [](const char* name, const std::string& value) {
      return nghttp2_nv{(uint8_t*)name, (uint8_t*)value.data(), strlen(name), value.size(), NGHTTP2_NV_FLAG_NONE};
    };
    static const std::string post = "POST", http = "http", type = "application/grpc", te = "trailers", wait = "10S";
    nghttp2_nv headers[] = {header(":method", post),       header(":scheme", http), header(":path", path),
                            header(":authority", authority), header("te", te),      header("content-type", type),
                            header("grpc-timeout", wait)};
    nghttp2_data_provider source{};
    source.source.ptr = this;
    source.read_callback = [](nghttp2_session*, int32_t, uint8_t* into, size_t size, uint32_t* flags,
                              nghttp2_data_source* from, void*) -> ssize_t {
      auto self = static_cast<Grpc*>(from->ptr);
      size = std::min(size, self->body.size() - self->sent);
      memcpy(into, self->body.data() + self->sent, size);
      self->sent += size;
      if (self->sent == self->body.size()) *flags |= NGHTTP2_DATA_FLAG_EOF;
      return size;
    };
    nghttp2_submit_request(session, nullptr, headers, std::size(headers), &source, nullptr);
    flush();
  }
  bool receive() override {
    uint8_t block[65536];
    size_t n = read_some(reinterpret_cast<char*>(block), sizeof block);
    if (nghttp2_session_mem_recv(session, block, n) < 0) throw std::runtime_error("what came is not HTTP/2");
    flush();
    if (done && reply.size() >= 5) reply.erase(0, 5);
    return done;
  }
  void flush() {
    std::string out;
    const uint8_t* data;
    for (ssize_t n; (n = nghttp2_session_mem_send(session, &data)) > 0;) out.append((const char*)data, n);
    if (!out.empty()) write_all(out);
  }
};

struct Redis : Connection {
  using Connection::Connection;
  void send(const std::string& request) override {
    reply.clear();
    write_all(request);
  }
  bool receive() override {
    char block[65536];
    reply.append(block, read_some(block, sizeof block));
    failed = reply[0] == '-';
    size_t at = 0;
    return whole(at);
  }
  bool whole(size_t& at) {
    auto end = reply.find("\r\n", at);
    if (end == std::string::npos) return false;
    char kind = reply[at];
    long size = kind == '*' || kind == '$' ? std::stol(reply.substr(at + 1, end - at - 1)) : 0;
    at = end + 2;
    if (kind == '$' && size >= 0) at += size + 2;
    for (long item = 0; kind == '*' && item < size; item++)
      if (!whole(at)) return false;
    return at <= reply.size();
  }
};

struct Postgres : Connection {
  Postgres(const std::string& address, const std::string& who) : Connection(address) {
    auto slash = who.find('/');
    std::string words = std::string("user\0", 5) + who.substr(0, slash) + '\0' + std::string("database\0", 9) +
                        who.substr(slash + 1) + '\0' + '\0';
    uint32_t head[] = {htonl(words.size() + 8), htonl(196608)};
    send(std::string(reinterpret_cast<char*>(head), 8) + words);
    while (!receive()) {
    }
    if (failed) throw std::runtime_error("PostgreSQL refused: " + reply);
  }
  void send(const std::string& request) override {
    reply.clear();
    write_all(request);
  }
  bool receive() override {  // a reply ends with ReadyForQuery
    char block[65536];
    reply.append(block, read_some(block, sizeof block));
    failed = false;
    for (size_t at = 0; at + 5 <= reply.size();) {
      uint32_t size;
      memcpy(&size, reply.data() + at + 1, 4);
      if (reply[at] == 'E') failed = true;
      if (reply[at] == 'Z') return at + 6 <= reply.size();
      at += 1 + ntohl(size);
    }
    return false;
  }
};

static std::vector<std::string> read_requests(const char* path, std::vector<std::string>& preamble) {
  std::ifstream file(path, std::ios::binary);
  std::vector<std::string> requests;
  for (uint32_t head[2]; file.read(reinterpret_cast<char*>(head), 8);) {
    std::string content(head[1], '\0');
    file.read(content.data(), head[1]);
    (head[0] == UINT32_MAX ? preamble : requests).push_back(std::move(content));
  }
  if (requests.empty()) throw std::runtime_error("no requests");
  return requests;
}

static std::unique_ptr<Connection> make(const std::string& mode, const std::string& address, const std::string& path) {
  if (mode == "grpc") return std::make_unique<Grpc>(address, path);
  if (mode == "postgres") return std::make_unique<Postgres>(address, path);
  return std::make_unique<Redis>(address);
}

static void ask(Connection& connection, const std::string& request) {
  connection.send(request);
  while (!connection.receive()) {
  }
  if (connection.failed) throw std::runtime_error("a request was refused");
}

int main(int count, char** words) try {
  if (count != 9) throw std::runtime_error("wanted MODE ADDRESS:PORT PATH REQUESTS CALLERS SECONDS RATE REPLIES");
  std::vector<std::string> preamble;
  auto requests = read_requests(words[4], preamble);
  int callers = std::stoi(words[5]);
  std::vector<std::unique_ptr<Connection>> connections;
  std::vector<pollfd> polls;
  for (int n = 0; n < callers; n++) {
    connections.push_back(make(words[1], words[2], words[3]));
    polls.push_back({connections.back()->fd, POLLIN, 0});
    for (auto& first : preamble) ask(*connections[n], first);
    ask(*connections[n], requests[n % requests.size()]);
  }
  auto after = [](double seconds) { return std::chrono::nanoseconds(long(1e9 * seconds)); };
  double rate = std::stod(words[7]);
  auto pace = after(rate > 0 ? callers / rate : 0);
  std::vector<double> milliseconds;
  std::map<uint32_t, std::string> found;
  std::vector<Clock::time_point> due(callers);  // when the query that is under way, or the next, should be asked
  std::vector<bool> rests(callers, true);
  std::vector<size_t> places(callers);
  size_t failures = 0;
  auto start = Clock::now(), end = start + after(std::stod(words[6])), now = start;
  for (int n = 0; n < callers; n++) {
    places[n] = n * requests.size() / callers;
    due[n] = start + pace * n / callers;
  }
  auto ask_if_due = [&](int n) {
    rests[n] = due[n] > now;
    if (!rests[n]) connections[n]->send(requests[places[n]]);
  };
  for (int busy = callers; busy;) {
    auto wake = now + std::chrono::seconds(10);
    bool anyone_rests = false;
    for (int n = 0; n < callers; n++) {
      if (polls[n].fd < 0 || !rests[n]) continue;
      ask_if_due(n);
      if (rests[n]) anyone_rests = true, wake = std::min(wake, due[n]);
    }
    long wait = std::max(0L, long(std::chrono::nanoseconds(wake - Clock::now()).count()));
    timespec timeout{wait / 1000000000, wait % 1000000000};
    int ready = ppoll(polls.data(), polls.size(), &timeout, nullptr);
    now = Clock::now();
    if (ready < 0 || (!ready && !anyone_rests)) throw std::runtime_error("no answer for 10 s");
    for (int n = 0; ready && n < callers; n++) {
      // What comes while a caller rests is no reply.
      if (!(polls[n].revents & (POLLIN | POLLHUP)) || !connections[n]->receive() || rests[n]) continue;
      now = Clock::now();
      milliseconds.push_back(std::chrono::duration<double, std::milli>(now - due[n]).count());
      if (connections[n]->failed)
        failures++;
      else
        found.try_emplace(places[n], connections[n]->reply);
      places[n] = (places[n] + 1) % requests.size();
      due[n] = rate > 0 ? due[n] + pace : now;
      if (due[n] < end) {
        ask_if_due(n);
      } else {
        polls[n].fd = -1;
        busy--;
      }
    }
  }
  double seconds = std::chrono::duration<double>(now - start).count();
  std::ofstream file(words[8], std::ios::binary);
  for (auto& [place, reply] : found) {
    uint32_t head[] = {place, uint32_t(reply.size())};
    file.write(reinterpret_cast<char*>(head), 8) << reply;
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  auto at = [&](double share) { return milliseconds[size_t(share * (milliseconds.size() - 1))]; };
  printf("{\"count\": %zu, \"queries_per_second\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"failures\": %zu}\n",
         milliseconds.size(), milliseconds.size() / seconds, at(0.5), at(0.99), failures);
} catch (const std::exception& error) {
  fprintf(stderr, "serve_load: %s\n", error.what());
  return 1;
}
