// Package backuptest makes folders that look like a Docker Engine's with a
// manager's state, for tests of backups that have no engine. It writes raft's files by the
// format's description, on its own: what reads them is judged by it.
package backuptest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A Folder is an engine's folder with a manager's state.
type Folder struct {
	DockerRoot string

	t     testing.TB
	log   string // the segment that is written to
	seq   int
	crc   uint32
	end   int64 // of the records in it
	term  uint64
	index uint64
}

// Space is what a segment takes beforehand, in bytes; etcd's takes 64 MB.
const Space = 1 << 20

// New makes the folder of a swarm, dockerRoot/swarm, with a few entries.
func New(t testing.TB, dockerRoot, swarmID, nodeID string) *Folder {
	t.Helper()
	f := &Folder{DockerRoot: dockerRoot, t: t, term: 2}
	f.Write("docker-state.json", `{"LocalAddr":"172.19.181.254"}`)
	f.Write("state.json", `[]`)
	f.Write("worker/tasks.db", "not in a backup")
	f.certificate(swarmID, nodeID, "swarm-manager")
	f.Write("certificates/swarm-root-ca.crt", "the swarm's CA")
	f.Write("raft/wal-v3-encrypted/0.tmp", "not in a backup")
	if err := os.MkdirAll(f.path("raft/snap-v3-encrypted"), 0o700); err != nil {
		t.Fatal(err)
	}
	f.segment()
	f.Append(3)
	return f
}

func (f *Folder) path(name string) string {
	return filepath.Join(f.DockerRoot, "swarm", filepath.FromSlash(name))
}

// Write writes a file of the folder.
func (f *Folder) Write(name, content string) {
	f.t.Helper()
	err := os.MkdirAll(filepath.Dir(f.path(name)), 0o700)
	if err == nil {
		err = os.WriteFile(f.path(name), []byte(content), 0o600)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// Worker makes it the folder of a worker, by its certificate.
func (f *Folder) Worker() { f.certificate("swarm", "node", "swarm-worker") }

func (f *Folder) certificate(swarmID, nodeID, role string) {
	f.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		Subject: pkix.Name{CommonName: nodeID, Organization: []string{swarmID}, OrganizationalUnit: []string{role}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.Write("certificates/swarm-node.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.Write("certificates/swarm-node.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// Log is the path of the segment that is written to.
func (f *Folder) Log() string { return f.log }

// End is where the records of the segment end, in bytes.
func (f *Folder) End() int64 { return f.end }

// Index is raft's last entry.
func (f *Folder) Index() uint64 { return f.index }

// segment begins a segment, after the one before it was closed.
func (f *Folder) segment() {
	f.t.Helper()
	if f.log != "" {
		if err := os.Truncate(f.log, f.end); err != nil {
			f.t.Fatal(err)
		}
	}
	f.Write(fmt.Sprintf("raft/wal-v3-encrypted/%016x-%016x.wal", f.seq, f.index+1), "")
	f.log = f.path(fmt.Sprintf("raft/wal-v3-encrypted/%016x-%016x.wal", f.seq, f.index+1))
	if err := os.Truncate(f.log, Space); err != nil {
		f.t.Fatal(err)
	}
	f.seq++
	f.end = 0
	f.raw(Record(4, f.crc, nil))
	f.record(1, []byte("metadata"))
	if f.index == 0 {
		f.record(5, message(1, 0, 2, 0))
	}
	f.state()
}

// Cut ends the segment and begins another.
func (f *Folder) Cut() {
	f.t.Helper()
	f.segment()
}

// Append adds entries, and that they are committed.
func (f *Folder) Append(n int) {
	f.t.Helper()
	for range n {
		f.index++
		data := make([]byte, 100)
		rand.Read(data)
		f.record(2, append(message(1, 0, 2, f.term, 3, f.index), field(4, data)...))
	}
	f.state()
}

func (f *Folder) state() { f.record(3, message(1, f.term, 2, 1, 3, f.index)) }

// Snapshot adds a snapshot of all entries so far, which the log knows of.
func (f *Folder) Snapshot() {
	f.t.Helper()
	f.record(5, message(1, f.index, 2, f.term))
	f.Unknown()
}

// Unknown adds a snapshot that the log does not know of.
func (f *Folder) Unknown() {
	f.t.Helper()
	data := make([]byte, 5000)
	rand.Read(data)
	sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	f.Write(fmt.Sprintf("raft/snap-v3-encrypted/%016x-%016x.snap", f.term, f.index), string(append(message(1, uint64(sum)), field(2, data)...)))
}

func (f *Folder) record(kind uint64, data []byte) {
	f.t.Helper()
	f.crc = crc32.Update(f.crc, crc32.MakeTable(crc32.Castagnoli), data)
	f.raw(Record(kind, f.crc, data))
}

func (f *Folder) raw(frame []byte) {
	f.t.Helper()
	f.Spill(frame)
	f.end += int64(len(frame))
}

// Spill writes bytes behind the records, without counting them.
func (f *Folder) Spill(b []byte) {
	f.t.Helper()
	w, err := os.OpenFile(f.log, os.O_WRONLY, 0)
	if err == nil {
		_, err = w.WriteAt(b, f.end)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// Record is a record in its frame.
func Record(kind uint64, crc uint32, data []byte) []byte {
	m := message(1, kind, 2, uint64(crc))
	if data != nil {
		m = append(m, field(3, data)...)
	}
	head := uint64(len(m))
	pad := (8 - len(m)%8) % 8
	if pad > 0 {
		head |= uint64(0x80|pad) << 56
	}
	return append(binary.LittleEndian.AppendUint64(nil, head), append(m, bytes.Repeat([]byte{0}, pad)...)...)
}

// message encodes pairs of a field's number and its value.
func message(pairs ...uint64) []byte {
	var b []byte
	for i := 0; i < len(pairs); i += 2 {
		b = binary.AppendUvarint(b, pairs[i]<<3)
		b = binary.AppendUvarint(b, pairs[i+1])
	}
	return b
}

func field(number uint64, data []byte) []byte {
	b := binary.AppendUvarint(nil, number<<3|2)
	b = binary.AppendUvarint(b, uint64(len(data)))
	return append(b, data...)
}
