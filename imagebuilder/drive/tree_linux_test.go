package drive_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// plant makes a recorded tree of sys, proc, dev and run: lines of "path =
// content" (with Go's escapes), "path -> target" and, for the lines of one
// file, "path : line". "#" begins a comment.
func plant(t testing.TB, text string) (root string) {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		path, rest, _ := strings.Cut(line, " ")
		sign, value, _ := strings.Cut(rest, " ")
		switch sign {
		case "->":
			full := filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(value, full); err != nil {
				t.Fatal(err)
			}
		case "=":
			content, err := strconv.Unquote(`"` + value + `"`)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			files[path] += content + "\n"
		case ":":
			files[path] += value + "\n"
		default:
			t.Fatalf("%q is no line of a tree", line)
		}
	}
	for path, content := range files {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// tree is a machine's name below testdata/linux, planted.
func tree(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "linux", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	return plant(t, expand(string(content)))
}

// expand writes out the lines that every disk has: "disk NAME MAJ:MIN DIR SIZE
// REMOVABLE RO" and "part NAME MAJ:MIN DIR N SIZE", DIR below sys/devices, size in
// sectors.
func expand(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) == 7 && f[0] == "disk":
			dir := "sys/devices/" + f[3] + "/" + f[1]
			fmt.Fprintf(&out, "sys/block/%s -> ../devices/%s/%s\n", f[1], f[3], f[1])
			fmt.Fprintf(&out, "%s/dev = %s\n%s/size = %s\n%s/removable = %s\n%s/ro = %s\n", dir, f[2], dir, f[4], dir, f[5], dir, f[6])
			fmt.Fprintf(&out, "%s/queue/logical_block_size = 512\n", dir)
		case len(f) == 6 && f[0] == "part":
			dir := "sys/devices/" + f[3] + "/" + f[1]
			fmt.Fprintf(&out, "%s/dev = %s\n%s/partition = %s\n%s/size = %s\n", dir, f[2], dir, f[4], dir, f[5])
		default:
			out.WriteString(line)
		}
	}
	return out.String()
}
