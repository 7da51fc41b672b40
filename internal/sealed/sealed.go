package sealed

import (
	"bufio"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
)

const (
	magic     = "hatchery-sealed\x00"
	version   = 1
	encSize   = 65
	sigSize   = 64
	chunkSize = 64 << 10
	tagSize   = 16
	domain    = "hatchery sealed stream v1\x00"
)

// MaxLabel is how many bytes a label may have.
const MaxLabel = 4 << 10

var (
	// ErrFormat is data that is no sealed stream, or one of a later version.
	ErrFormat = errors.New("this is no sealed stream of hatchery's")
	// ErrForeign is a stream that was made with another key.
	ErrForeign = errors.New("this was not sealed with the present key")
	// ErrDamaged is a stream that was changed, or whose end is missing.
	ErrDamaged = errors.New("the sealed stream is damaged or not whole")
)

func suite() (hpke.KDF, hpke.AEAD) { return hpke.HKDFSHA256(), hpke.AES256GCM() }

// last and more are the associated data of chunks.
var last, more = []byte{1}, []byte{0}

// A Header is the public beginning of a stream. It is to be believed once
// Verify has accepted it.
type Header struct {
	// Label is what the maker wrote about the content.
	Label []byte
	// Raw is the header as it stands in the stream.
	Raw []byte
}

// MaxHeader is how many bytes a header has at most.
const MaxHeader = len(magic) + 1 + 4 + MaxLabel + encSize + sigSize

// ReadHeader reads the beginning of a stream, and no byte more.
func ReadHeader(r io.Reader) (*Header, error) {
	fixed := make([]byte, len(magic)+1+4)
	if _, err := io.ReadFull(r, fixed); err != nil {
		return nil, short(err, ErrFormat)
	}
	if string(fixed[:len(magic)]) != magic {
		return nil, ErrFormat
	}
	if v := fixed[len(magic)]; v != version {
		return nil, fmt.Errorf("%w: its version is %d, and this program knows %d", ErrFormat, v, version)
	}
	size := binary.BigEndian.Uint32(fixed[len(magic)+1:])
	if size > MaxLabel {
		return nil, fmt.Errorf("%w: its label has %d bytes, at most %d are allowed", ErrFormat, size, MaxLabel)
	}
	raw := make([]byte, len(fixed)+int(size)+encSize+sigSize)
	copy(raw, fixed)
	if _, err := io.ReadFull(r, raw[len(fixed):]); err != nil {
		return nil, short(err, ErrDamaged)
	}
	return &Header{Label: raw[len(fixed):][:size:size], Raw: raw}, nil
}

// short gives what an early end means; other errors of reading stay.
func short(err, meaning error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return meaning
	}
	return err
}

func (h *Header) info() []byte      { return h.Raw[:len(h.Raw)-encSize-sigSize] }
func (h *Header) enc() []byte       { return h.Raw[len(h.Raw)-encSize-sigSize:][:encSize] }
func (h *Header) signature() []byte { return h.Raw[len(h.Raw)-sigSize:] }

func digest(header []byte) []byte {
	d := sha256.New()
	io.WriteString(d, domain)
	d.Write(header)
	return d.Sum(nil)
}

// Verify checks that the holder of the key made this header; else ErrForeign.
func (h *Header) Verify(key *ecdsa.PublicKey) error {
	var r, s big.Int
	r.SetBytes(h.signature()[:sigSize/2])
	s.SetBytes(h.signature()[sigSize/2:])
	if !ecdsa.Verify(key, digest(h.Raw[:len(h.Raw)-sigSize]), &r, &s) {
		return ErrForeign
	}
	return nil
}

// A Writer seals what is written to it. Close ends the stream; a stream that
// was not closed is refused by every reader.
type Writer struct {
	w      io.Writer
	sender *hpke.Sender
	chunk  []byte
	err    error
}

// NewWriter begins a stream that only the same key reads. The label stays
// readable for everyone.
func NewWriter(w io.Writer, key *ecdsa.PrivateKey, label []byte) (*Writer, error) {
	if len(label) > MaxLabel {
		return nil, fmt.Errorf("cannot seal: the label has %d bytes, at most %d are allowed", len(label), MaxLabel)
	}
	exchange, err := exchangeKey(key)
	if err != nil {
		return nil, err
	}
	public, err := hpke.NewDHKEMPublicKey(exchange.PublicKey())
	if err != nil {
		return nil, fmt.Errorf("cannot seal: %w", err)
	}
	header := append([]byte(magic), version)
	header = binary.BigEndian.AppendUint32(header, uint32(len(label)))
	header = append(header, label...)
	kdf, aead := suite()
	enc, sender, err := hpke.NewSender(public, kdf, aead, header)
	if err != nil {
		return nil, fmt.Errorf("cannot seal: %w", err)
	}
	header = append(header, enc...)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest(header))
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	signature := make([]byte, sigSize)
	r.FillBytes(signature[:sigSize/2])
	s.FillBytes(signature[sigSize/2:])
	if _, err := w.Write(append(header, signature...)); err != nil {
		return nil, err
	}
	return &Writer{w: w, sender: sender, chunk: make([]byte, 0, chunkSize)}, nil
}

func exchangeKey(key *ecdsa.PrivateKey) (*ecdh.PrivateKey, error) {
	if key == nil || key.Curve != elliptic.P256() {
		return nil, errors.New("only keys on the curve P-256 seal")
	}
	return key.ECDH()
}

// Write seals p.
func (w *Writer) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 && w.err == nil {
		// A full chunk waits until there is more, since the last one is marked.
		if len(w.chunk) == chunkSize {
			w.flush(more)
			continue
		}
		m := min(len(p), chunkSize-len(w.chunk))
		w.chunk = append(w.chunk, p[:m]...)
		p, n = p[m:], n+m
	}
	return n, w.err
}

func (w *Writer) flush(aad []byte) {
	ciphertext, err := w.sender.Seal(aad, w.chunk)
	if err == nil {
		_, err = w.w.Write(ciphertext)
	}
	w.chunk, w.err = w.chunk[:0], err
}

// Close seals the end. It does not close the writer below.
func (w *Writer) Close() error {
	if w.err == errClosed {
		return nil
	}
	if w.err == nil {
		w.flush(last)
	}
	err := w.err
	if err == nil {
		w.err = errClosed
	}
	return err
}

var errClosed = errors.New("write after the end of a sealed stream")

// A Reader opens a stream. What it gives is what the maker wrote, in its
// order; io.EOF comes only at the end that the maker set, ErrDamaged where the
// stream was cut or changed.
type Reader struct {
	header    *Header
	r         *bufio.Reader
	recipient *hpke.Recipient
	buf       []byte // a chunk as it is read
	plain     []byte // opened and not yet given
	err       error
}

// NewReader reads and checks the header. The error is ErrFormat, ErrForeign,
// ErrDamaged or one of reading.
func NewReader(r io.Reader, key *ecdsa.PrivateKey) (*Reader, error) {
	exchange, err := exchangeKey(key)
	if err != nil {
		return nil, err
	}
	header, err := ReadHeader(r)
	if err != nil {
		return nil, err
	}
	if err := header.Verify(&key.PublicKey); err != nil {
		return nil, err
	}
	private, err := hpke.NewDHKEMPrivateKey(exchange)
	if err != nil {
		return nil, err
	}
	kdf, aead := suite()
	recipient, err := hpke.NewRecipient(header.enc(), private, kdf, aead, header.info())
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	return &Reader{header: header, r: bufio.NewReaderSize(r, 4<<10), recipient: recipient, buf: make([]byte, chunkSize+tagSize)}, nil
}

// Label is what the maker wrote about the content.
func (r *Reader) Label() []byte { return r.header.Label }

// Read gives the opened content.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.plain) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.next()
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

// next opens a chunk, or sets the error.
func (r *Reader) next() {
	n, err := io.ReadFull(r.r, r.buf)
	end := err == io.ErrUnexpectedEOF || err == io.EOF
	if err != nil && !end {
		r.err = err
		return
	}
	if !end {
		switch _, err := r.r.Peek(1); {
		case err == io.EOF:
			end = true
		case err != nil:
			r.err = err
			return
		}
	}
	aad := more
	if end {
		aad = last
	}
	plain, err := r.recipient.Open(aad, r.buf[:n])
	if err != nil {
		r.err = ErrDamaged
		return
	}
	r.plain = plain
	if end {
		r.err = io.EOF
	}
}
