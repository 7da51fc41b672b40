// Guest is the init of the root file systems that nodeinit's tests boot. It
// does what is typed on the console and answers there, a line each.
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	console, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return
	}
	say := func(format string, args ...any) { fmt.Fprintf(console, "\nGUEST "+format+"\n", args...) }
	say("up as %d: %s", os.Getpid(), strings.Join(os.Args, " "))
	for lines := bufio.NewScanner(console); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		if err := do(words, say); err != nil {
			say("failed %s: %v", words[0], err)
		} else {
			say("done %s", words[0])
		}
	}
	select {}
}

func do(words []string, say func(string, ...any)) error {
	arg := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	number := func(i int) int {
		n, _ := strconv.Atoi(arg(i))
		return n
	}
	switch words[0] {
	case "write": // FILE MIB SEED, each mebibyte synced
		f, err := os.OpenFile(arg(1), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		data := stream(number(3))
		for i := range number(2) {
			if _, err := io.CopyN(f, data, 1<<20); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
			say("wrote %d", i+1)
		}
		return nil
	case "verify": // FILE MIB SEED, from the disk
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o644); err != nil {
			return err
		}
		f, err := os.Open(arg(1))
		if err != nil {
			return err
		}
		defer f.Close()
		got, want := sha256.New(), sha256.New()
		if _, err := io.Copy(got, f); err != nil {
			return err
		}
		io.CopyN(want, stream(number(3)), int64(number(2))<<20)
		if string(got.Sum(nil)) != string(want.Sum(nil)) {
			return fmt.Errorf("other data")
		}
		return nil
	case "fill": // FILE: incompressible data until it is refused
		f, err := os.Create(arg(1))
		if err != nil {
			return err
		}
		defer f.Close()
		n, err := io.Copy(f, io.LimitReader(stream(9), 1<<40))
		say("filled %d KiB: %v", n>>10, err)
		return f.Sync()
	case "overlay": // what Docker's overlay2 asks of the root
		const dir = "/overlay"
		for _, d := range []string{"lower", "upper", "work", "merged"} {
			if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
				return err
			}
		}
		os.WriteFile(dir+"/lower/gone", []byte("x"), 0o644)
		os.WriteFile(dir+"/lower/changed", []byte("old"), 0o644)
		if err := syscall.Mount("overlay", dir+"/merged", "overlay", 0, "lowerdir="+dir+"/lower,upperdir="+dir+"/upper,workdir="+dir+"/work"); err != nil {
			return err
		}
		if err := os.Remove(dir + "/merged/gone"); err != nil {
			return err
		}
		if err := os.WriteFile(dir+"/merged/changed", []byte("new"), 0o644); err != nil {
			return err
		}
		var whiteout syscall.Stat_t
		if err := syscall.Lstat(dir+"/upper/gone", &whiteout); err != nil || whiteout.Mode&syscall.S_IFMT != syscall.S_IFCHR {
			return fmt.Errorf("no whiteout: %v", err)
		}
		old, _ := os.ReadFile(dir + "/lower/changed")
		changed, _ := os.ReadFile(dir + "/upper/changed")
		if string(old)+string(changed) != "oldnew" {
			return fmt.Errorf("copied up: %s %s", old, changed)
		}
		return syscall.Unmount(dir+"/merged", 0)
	case "cat":
		text, err := os.ReadFile(arg(1))
		for line := range strings.Lines(string(text)) {
			say("| %s", strings.TrimSpace(line))
		}
		return err
	case "keeper": // the process that stayed behind
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range all {
			line, _ := os.ReadFile(name)
			if !strings.HasPrefix(string(line), "@hatchery-nodeinit") {
				continue
			}
			dir := filepath.Dir(name)
			adj, _ := os.ReadFile(dir + "/oom_score_adj")
			say("| oom_score_adj: %s", strings.TrimSpace(string(adj)))
			status, err := os.ReadFile(dir + "/status")
			for line := range strings.Lines(string(status)) {
				say("| %s", strings.TrimSpace(line))
			}
			return err
		}
		return os.ErrNotExist
	case "signals": // what systemd sends to everybody at shutdown
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range all {
			line, _ := os.ReadFile(name)
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			if strings.HasPrefix(string(line), "@hatchery-nodeinit") {
				for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE, syscall.SIGUSR1, 34 + 4, syscall.SIGCONT} {
					if err := syscall.Kill(pid, s); err != nil {
						return err
					}
				}
				return nil
			}
		}
		return os.ErrNotExist
	case "df":
		var s syscall.Statfs_t
		if err := syscall.Statfs("/", &s); err != nil {
			return err
		}
		say("| free %d KiB, to be had %d KiB", uint64(s.Bfree)*uint64(s.Bsize)>>10, uint64(s.Bavail)*uint64(s.Bsize)>>10)
		return nil
	case "ls":
		entries, err := os.ReadDir(arg(1))
		for _, e := range entries {
			say("| %s", e.Name())
		}
		return err
	case "rm":
		return os.Remove(arg(1))
	case "sync":
		syscall.Sync()
		return nil
	case "poweroff":
		syscall.Sync()
		// Read-only, as systemd leaves it.
		if err := syscall.Mount("", "/", "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			say("remount: %v", err)
		}
		return syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	}
	return fmt.Errorf("unknown")
}

func stream(seed int) io.Reader {
	return rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
}
