package nbd_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/internal/testtool"
	"hatchery/netboot/nbd"
)

// client runs a client's program; it is the distribution's Python that has
// libnbd's module.
func client(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testtool.Need(t, name), args...)
	cmd.Env = append(os.Environ(), "PATH=/usr/bin:/bin:/usr/sbin:/sbin")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, stderr.String())
	}
	return string(out)
}

// TestClients: what others wrote to speak NBD finds nothing to complain of, over
// a Unix socket, TCP, and TLS.
func TestClients(t *testing.T) {
	for _, tool := range []string{"nbdinfo", "nbdcopy", "nbdsh", "qemu-img", "qemu-io"} {
		testtool.Need(t, tool)
	}
	for _, over := range []string{"unix", "tcp", "tls"} {
		t.Run(over, func(t *testing.T) {
			const size = 40*mib + 512
			device := newRAM(size)
			copy(device.data[mib:], pattern(5*mib, 7))
			for b := mib / 4096; b < 6*mib/4096; b++ {
				device.holes[b] = false
			}
			server := &nbd.Server{}
			var certs *certificates
			if over == "tls" {
				certs = newCertificates(t)
				server.TLS, server.TLSOnly = certs.server, true
			}
			network, addr := "tcp", "127.0.0.1:0"
			if over == "unix" {
				network, addr = "unix", filepath.Join(t.TempDir(), "nbd.sock")
			}
			s := newSiteOn(t, server, exports{
				"p1": {Name: "p1", Description: "slot 1", Device: device},
				"p2": {Name: "p2", Device: device, Shared: true},
				"p3": {Name: "p3", Device: device, ReadOnly: true},
			}, network, addr)
			// uri names an export as libnbd does, qemu gives qemu's arguments for it.
			uri := func(export string) string {
				_, port, _ := net.SplitHostPort(s.addr)
				switch over {
				case "unix":
					return "nbd+unix:///" + export + "?socket=" + s.addr
				case "tls":
					return "nbds://localhost:" + port + "/" + export + "?tls-certificates=" + certs.dir
				}
				return "nbd://" + s.addr + "/" + export
			}
			qemu := func(export string) []string {
				host, port, _ := net.SplitHostPort(s.addr)
				switch over {
				case "unix":
					return []string{"--image-opts", "driver=nbd,server.type=unix,server.path=" + s.addr + ",export=" + export}
				case "tls":
					return []string{"--object", "tls-creds-x509,id=tls0,endpoint=client,verify-peer=on,dir=" + certs.dir,
						"--image-opts", "driver=nbd,server.type=inet,server.host=localhost,server.port=" + port + ",export=" + export + ",tls-creds=tls0"}
				}
				return []string{"--image-opts", "driver=nbd,server.type=inet,server.host=" + host + ",server.port=" + port + ",export=" + export}
			}

			t.Run("nbdinfo", func(t *testing.T) {
				var info struct {
					Protocol   string
					TLS        bool
					Structured bool
					Exports    []map[string]any
				}
				if err := json.Unmarshal([]byte(client(t, "nbdinfo", "--json", uri("p1"))), &info); err != nil {
					t.Fatal(err)
				}
				if info.Protocol != "newstyle-fixed" || info.TLS != (over == "tls") || !info.Structured || len(info.Exports) != 1 {
					t.Errorf("%+v", info)
				}
				for key, want := range map[string]any{
					"export-name": "p1", "description": "slot 1", "contexts": []any{"base:allocation"}, "export-size": float64(size),
					"block_size_minimum": 1.0, "block_size_preferred": 4096.0, "block_size_maximum": float64(32 * mib), "is_read_only": false,
					"can_flush": true, "can_fua": true, "can_trim": true, "can_zero": true, "can_fast_zero": true, "can_df": true, "can_multi_conn": false, "can_cache": false,
				} {
					if got := info.Exports[0][key]; fmt.Sprint(got) != fmt.Sprint(want) {
						t.Errorf("%s: %v, want %v", key, got, want)
					}
				}
				for _, want := range []string{"p1", "p2", "p3"} {
					if got := client(t, "nbdinfo", "--list", uri("")); !strings.Contains(got, `export="`+want+`"`) {
						t.Errorf("--list: %s", got)
					}
				}
				if got, want := strings.Fields(client(t, "nbdinfo", "--map", uri("p1"))), strings.Fields(fmt.Sprintf(
					"0 %d 3 hole,zero %d %d 0 data %d %d 3 hole,zero", mib, mib, 5*mib, 6*mib, size-6*mib)); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("--map: %v, want %v", got, want)
				}
				client(t, "nbdinfo", "--is", "read-only", uri("p3"))
				client(t, "nbdinfo", "--can", "multi-conn", uri("p3"))
			})
			t.Run("nbdsh", func(t *testing.T) {
				connect := func(export string) string {
					return "h.set_uri_allow_local_file(True)\nh.connect_uri('" + uri(export) + "')\n"
				}
				client(t, "nbdsh", "-c", connect("p1")+`
def fails(f, *errors):
    try:
        f()
    except nbd.Error as e:
        assert e.errno in errors, e
    else:
        raise AssertionError("no error")
size = h.get_size()
h.pwrite(b"abc", 4094)
assert h.pread(5, 4093) == b"\0abc\0", h.pread(5, 4093)
h.pwrite(b"x" * 5000000, 10000001, nbd.CMD_FLAG_FUA)
assert h.pread(5000002, 10000000) == b"\0" + b"x" * 5000000 + b"\0"
h.flush()
h.zero(4096, 10000001)
h.zero(4096, 10004097, nbd.CMD_FLAG_NO_HOLE)
h.trim(8192, 10010624, nbd.CMD_FLAG_FUA)
assert h.pread(8192, 10000001) == b"\0" * 8192
h.zero(1 << 20, 20 << 20, nbd.CMD_FLAG_FAST_ZERO)
h.set_strict_mode(0)
fails(lambda: h.pread(512, size), "EINVAL")
fails(lambda: h.pwrite(b"x", size), "ENOSPC")
fails(lambda: h.zero(2, size - 1), "ENOSPC")
fails(lambda: h.trim(2, size - 1), "EINVAL")
fails(lambda: h.pread(1 << 20, 0, nbd.CMD_FLAG_DF), "EOVERFLOW")
fails(lambda: h.cache(512, 0), "EINVAL", "ENOTSUP")
assert h.pread(65536, 0, nbd.CMD_FLAG_DF) == h.pread(65536, 0)
seen = []
def chunk(buf, offset, status, err):
    seen.append((offset, len(buf), status))
h.pread_structured(2 << 20, 0, chunk)
assert sum(n for _, n, _ in seen) == 2 << 20, seen
# Many at once, each answer to its own question.
for i in range(64):
    h.pwrite(bytes([i]) * 777, i * 777 + (30 << 20))
asked = []
for i in range(64):
    b = nbd.Buffer(777)
    asked.append((i, b, h.aio_pread(b, i * 777 + (30 << 20))))
for i, b, c in asked:
    while not h.aio_command_completed(c):
        h.poll(-1)
    assert b.to_bytearray() == bytes([i]) * 777
h.shutdown()
`)
				// Without structured replies.
				client(t, "nbdsh", "-c", `
h.set_request_structured_replies(False)
`+connect("p3")+`
assert not h.get_structured_replies_negotiated()
assert h.pread(3 << 20, 0) == h.pread(1 << 20, 0) + h.pread(2 << 20, 1 << 20)
h.set_strict_mode(0)
try:
    h.pwrite(b"x" * 1000000, 0)
    raise AssertionError("written")
except nbd.Error as e:
    assert e.errno == "EPERM", e
h.shutdown()
`)
			})
			t.Run("nbdcopy", func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "disk")
				content := pattern(size, 3)
				clear(content[20*mib : 30*mib])
				if err := os.WriteFile(file, content, 0o600); err != nil {
					t.Fatal(err)
				}
				client(t, "nbdcopy", "--flush", "-S", "4096", file, uri("p2"))
				device.mu.Lock()
				equal(t, "copied there", device.data, content)
				equal(t, "durable", device.durable, content)
				if !device.holes[25*mib/4096] {
					t.Error("no holes were made")
				}
				device.mu.Unlock()
				client(t, "nbdcopy", uri("p3"), file)
				back, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "copied back", back, content)
			})
			t.Run("qemu", func(t *testing.T) {
				io := func(export string, commands ...string) string {
					args := qemu(export)
					for _, c := range commands {
						args = append(args, "-c", c)
					}
					return client(t, "qemu-io", args...)
				}
				for _, bad := range []string{"Pattern verification failed", "failed", "rror"} {
					if out := io("p1", "write -P 17 1M 3M", "read -P 17 1M 3M", "write -f -P 18 1536 512", "read -P 18 1536 512",
						"write -z 2M 1M", "write -z -u 4M 1M", "read -P 0 2M 1M", "read -P 17 1M 1M", "discard 8M 4M", "read -P 0 8M 4M",
						"aio_write -P 5 10M 64k", "aio_write -P 6 11M 64k", "aio_flush", "flush", "read -P 5 10M 64k", "read -P 6 11M 64k"); strings.Contains(out, bad) {
						t.Errorf("qemu-io: %s", out)
					}
				}
				device.mu.Lock()
				equal(t, "durable", device.durable, device.data)
				device.mu.Unlock()
				target := filepath.Join(t.TempDir(), "copy")
				client(t, "qemu-img", append(append([]string{"convert", "-O", "raw"}, qemu("p3")...), target)...)
				back, err := os.ReadFile(target)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "converted", back, device.data)
				if out := client(t, "qemu-img", append([]string{"map", "--output=json"}, qemu("p3")...)...); !strings.Contains(out, `"zero": true`) {
					t.Errorf("qemu-img map: %s", out)
				}
			})
		})
	}
}
