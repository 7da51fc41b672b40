package download_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/download"
	"hatchery/internal/progress"
)

// TestServerSendsTooMuch: what comes after the body is nobody's business, and
// nothing of it is printed.
func TestServerSendsTooMuch(t *testing.T) {
	file := noise(9, 1<<20)
	var printed bytes.Buffer
	log.SetOutput(&printed)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(file))
		conn.Write(append(bytes.Clone(file), "\x00\x1b[2J and more"...))
		io.Copy(io.Discard, in) // until the other side has closed, and had its say before
	}()
	f, err := os.Create(filepath.Join(t.TempDir(), "part"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	client := download.New() // the one that users get
	if _, size, err := client.File(t.Context(), "http://"+listener.Addr().String()+"/a", digest.FromBytes(file), f, progress.Discard, download.Options{}); err != nil || size != int64(len(file)) {
		t.Errorf("%d bytes, %v", size, err)
	}
	<-done
	if printed.Len() > 0 {
		t.Errorf("printed: %s", &printed)
	}
}
