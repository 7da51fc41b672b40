package systemd

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestIsJournal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(w.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
	if !isJournal(w, own) {
		t.Errorf("%s is the file's", own)
	}
	for _, other := range []string{"", ":", own + "0", fmt.Sprintf("%d:%d", stat.Dev+1, stat.Ino)} {
		if isJournal(w, other) {
			t.Errorf("%q is not the file's", other)
		}
	}
	w.Close()
	if isJournal(w, own) {
		t.Error("a closed file is none")
	}
}
