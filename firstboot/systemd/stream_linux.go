package systemd

import (
	"fmt"
	"os"
	"syscall"
)

// isJournal says whether a file is the journal's: systemd.exec(5) has its device and
// inode in $JOURNAL_STREAM. journal.StderrIsJournalStream knows too, and brings all of
// fmt's scanning to every node.
func isJournal(f *os.File, stream string) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}
