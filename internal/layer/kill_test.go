package layer_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hatchery/internal/layer"
)

// The child writes generation after generation over the whole of a device of
// this size, and tells each flush that returned.
const killedSize = 64 * layer.BlockSize

// generation gives what the child writes in its nth round.
func generation(n uint64, size int) []byte {
	p := make([]byte, size)
	rnd := rand.New(rand.NewPCG(n, 3))
	for i := 0; i < size; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], rnd.Uint64())
	}
	for i := range 8 { // and some zeros, at other places each time
		clear(p[int(n+uint64(i)*7)%64*layer.BlockSize:][:layer.BlockSize])
	}
	return p
}

func TestMain(m *testing.M) {
	if path := os.Getenv("LAYER_TEST_VICTIM"); path != "" {
		if err := victim(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// victim writes until it is killed.
func victim(path string) error {
	first, err := strconv.ParseUint(os.Getenv("LAYER_TEST_FIRST"), 10, 64)
	if err != nil {
		return err
	}
	l, err := layer.Open(path, inMemory(make([]byte, killedSize)))
	if err != nil {
		return err
	}
	for n := first; ; n++ {
		p := generation(n, killedSize)
		rnd := rand.New(rand.NewPCG(n, 4))
		for off := 0; off < len(p); {
			end := min(off+1+rnd.IntN(5*layer.BlockSize), len(p))
			if _, err := l.WriteAt(p[off:end], int64(off)); err != nil {
				return err
			}
			off = end
		}
		if err := l.Flush(); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// TestKill kills a process that writes and flushes, again and again on one
// file. What is there afterwards is the last generation that was told to be
// flushed, or the one after it, whole.
func TestKill(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := inMemory(make([]byte, killedSize))
	path := filepath.Join(t.TempDir(), "victim")
	l, err := layer.Create(path, parent, killedSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	next := uint64(1)
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	for range rounds {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "LAYER_TEST_VICTIM="+path, fmt.Sprint("LAYER_TEST_FIRST=", next))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		told := next - 1
		lines := bufio.NewReader(out)
		kill := rnd.IntN(12) + 1
		for i := 0; ; i++ {
			if i == kill {
				// Not only right after a flush.
				time.Sleep(time.Duration(rnd.IntN(4000)) * time.Microsecond)
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			line, err := lines.ReadString('\n')
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if told, err = strconv.ParseUint(strings.TrimSpace(line), 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		cmd.Wait()
		if told < next {
			t.Fatalf("the child flushed nothing: %s", stderr.String())
		}
		l, err := layer.Open(path, parent)
		if err != nil {
			t.Fatal(err)
		}
		got := contentOf(t, l)
		switch {
		case bytes.Equal(got, generation(told, killedSize)):
			next = told + 1
		case bytes.Equal(got, generation(told+1, killedSize)):
			next = told + 2
		default:
			t.Fatalf("after generation %d was flushed, the content is neither that nor the next", told)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
