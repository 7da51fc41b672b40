package adoption

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/spec"
)

var update = flag.Bool("update", false, "write testdata's cluster files anew")

const someKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJq6uLwmxJ4ogb5QFhBUJ4PgLYmmPNmNGpcQyRvXnXQZ me@here"

// TestInventories compares what becomes of the articles' inventories, and of
// hatchery's own, with the cluster files beside them, which check takes.
func TestInventories(t *testing.T) {
	files, err := filepath.Glob("testdata/inventory/*.[iy]*")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, ".yaml") {
			continue
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			inv, err := ReadInventory(file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := inv.Cluster(Roles{})
			if err != nil {
				t.Fatal(err)
			}
			c.Keys = []string{someKey}
			golden := file + ".cluster.yaml"
			content, open, err := c.Write(golden)
			if err != nil || len(open) > 0 {
				t.Fatal(open, err)
			}
			if *update {
				if err := os.WriteFile(golden, content, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(content)); diff != "" {
				t.Errorf("(-%s +now):\n%s", golden, diff)
			}
			if strings.Contains(string(content), "geheim") {
				t.Error("the file has a password of the inventory's")
			}
		})
	}
}

func TestHostsOfInventories(t *testing.T) {
	for _, test := range []struct {
		summary   string
		file      string
		inventory string
		roles     Roles
		slots     string // number=hostname
		says      string // some note
		err       string // "" for none
	}{
		{"ranges", "hosts", "[clusterctrl_server]\nctrl\n[clusterctrl_nodes]\nzero[1:3]\n", Roles{}, "1=zero1 2=zero2 3=zero3", "names end in", ""},
		{"letters", "hosts", "[clusterctrl_server]\nctrl\n[clusterctrl_nodes]\nz[a:c] ansible_user=pi\n", Roles{}, "1=za 2=zb 3=zc", "inventory's order", ""},
		{"zeros before numbers", "hosts", "[clusterctrl_server]\nctrl\n[clusterctrl_nodes]\nn[05:12:7].lan:2222\n", Roles{}, "5=n05 12=n12", "names end in", ""},
		{"addresses count before names", "hosts", "[clusterctrl_server]\nctrl\n[clusterctrl_nodes]\np1x ansible_host=172.19.181.7 # seven\np2\n", Roles{}, "2=p2 7=p1x", "", ""},
		{"the order fills what is free", "hosts", "[clusterctrl_server]\nctrl\n[clusterctrl_nodes]\nb\na ansible_host=172.19.180.1\nc\n", Roles{}, "1=a 2=b 3=c", "inventory's order", ""},
		{"other groups", "hosts", "[head]\nctrl\n[zeros]\np4\n", Roles{"ctrl", "zeros"}, "4=p4", "", ""},
		{"one group with the controller in it", "hosts", "[all_of_it]\nctrl\np4\n", Roles{"ctrl", "all_of_it"}, "4=p4", "", ""},
		{"a parent's variable gives way to a child's", "hosts", "[clusterctrl_server]\nctrl\n[clusterctrl_nodes]\na\n[clusterctrl_nodes:vars]\nansible_host=172.19.181.9\n[x:children]\nclusterctrl_nodes\n[x:vars]\nansible_host = '172.19.181.8'\n", Roles{}, "9=a", "", ""},
		{"YAML with null, ranges and an anchor", "i.yml", "clusterctrl_server: {hosts: {ctrl: }}\nclusterctrl_nodes:\n  hosts:\n    z[1:2]: &v {ansible_user: pi}\n    z4: *v\n", Roles{}, "1=z1 2=z2 4=z4", "", ""},
		{"YAML by its look", "hosts", "---\nclusterctrl_server: {hosts: {ctrl: }}\nclusterctrl_nodes: {hosts: {p9: }}\n", Roles{}, "9=p9", "", ""},
		{"root does not log in", "hosts", "[clusterctrl_server]\nctrl ansible_user=root\n[clusterctrl_nodes]\np1\n", Roles{}, "1=p1", "logs in as root", ""},

		{"no such groups", "hosts", "[a]\nb\n", Roles{}, "", "", "hosts: clusterctrl_server is no group or host of this inventory: say with --controller"},
		{"an empty group", "hosts", "[clusterctrl_server]\nctrl\n[clusterctrl_nodes]\n", Roles{}, "", "", "hosts:3:1: clusterctrl_nodes has no host"},
		{"two controllers", "hosts", "[clusterctrl_server]\na\nb\n[clusterctrl_nodes]\np1\n", Roles{}, "", "", "hosts:3:1: b is a second controller beside a"},
		{"a slot twice", "hosts", "[clusterctrl_server]\nc\n[clusterctrl_nodes]\na ansible_host=172.19.181.2\np2\n", Roles{}, "", "", "hosts:5:1: p2 is in slot p2, as a is (line 4)"},
		{"no slot's address", "hosts", "[clusterctrl_server]\nc\n[clusterctrl_nodes]\na ansible_host=172.19.181.254\n", Roles{}, "", "", "hosts:4:1: a has the address 172.19.181.254, which is no slot's"},
		{"a bracket that does not close", "hosts", "[a\n", Roles{}, "", "", "hosts:1:1: this is no section"},
		{"an unknown kind of section", "hosts", "[a:vers]\nx=1\n", Roles{}, "", "", "hosts:1:1: [a:vers] is no section"},
		{"what is no variable is not shown", "hosts", "[a]\nb pass=se cret\n", Roles{}, "", "", "hosts:2:1: what comes after a host is name=value"},
		{"an open quote", "hosts", "[a]\n  b x='1\n", Roles{}, "", "", "hosts:2:3: the quote ' is never closed"},
		{"a range without end", "hosts", "[a]\nb[1:999999999]\n", Roles{}, "", "", "hosts:2:1: \"b[1:999999999]\": a range begins with its lowest"},
		{"a child that is not there", "hosts", "[a]\nh\n[b:children]\nc\n", Roles{}, "", "", "hosts:3:1: group b has the child c"},
		{"a group in itself", "hosts", "[x]\nh\n[a:children]\nb\n[b:children]\na\n", Roles{}, "", "", "is part of itself"},
		{"a program", "hosts", "#!/bin/sh\n", Roles{}, "", "", "ansible-inventory -i hosts --list --yaml"},
		{"what Ansible lists for itself", "i.json", `{"_meta": {}}`, Roles{}, "", "", "i.json:1:2: this is what `ansible-inventory --list` prints"},
		{"hosts as a list", "i.yml", "a:\n  hosts:\n    - b\n", Roles{}, "", "", "i.yml:3:5: hosts of group a has a mapping here"},
		{"a host where a section belongs", "i.yml", "a:\n  b:\n", Roles{}, "", "", "i.yml:2:3: b is none of hosts, children and vars"},
		{"no YAML", "i.yml", "a: [\n", Roles{}, "", "", "this is no YAML"},
		{"nothing", "i.yml", "", Roles{}, "", "", "is empty"},
		{"no host", "hosts", "# nothing\n", Roles{}, "", "", "names no host"},
		{"no text", "hosts", "a\xff\n", Roles{}, "", "", "is no text"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			inv, err := ParseInventory(test.file, []byte(test.inventory))
			var c *Cluster
			if err == nil {
				c, err = inv.Cluster(test.roles)
			}
			if test.err != "" {
				var mistakes *spec.Errors
				if !errors.As(err, &mistakes) || !strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "cret") {
					t.Fatalf("the error is %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var slots []string
			for _, s := range c.Slots {
				slots = append(slots, fmt.Sprintf("%d=%s", s.Number, s.Hostname))
			}
			if got := strings.Join(slots, " "); got != test.slots {
				t.Errorf("the slots are %s, want %s", got, test.slots)
			}
			notes := ""
			for _, n := range c.Notes() {
				notes += n.Message + "\n"
			}
			if !strings.Contains(notes, test.says) {
				t.Errorf("nothing is said of %q: %s", test.says, notes)
			}
		})
	}
}

// FuzzInventory: whatever an inventory holds, it is refused or becomes a file that
// spec reads, with nothing left to say but what is to be filled in.
func FuzzInventory(f *testing.F) {
	files, _ := filepath.Glob("testdata/inventory/*")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(filepath.Base(file), data)
	}
	f.Add("hosts", []byte("[clusterctrl_server]\nlocalhost a=\"b c\"\n[clusterctrl_nodes]\np[1:4]x ansible_user='a b'\n"))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		inv, err := ParseInventory(name, data)
		var mistakes *spec.Errors
		if err != nil {
			if !errors.As(err, &mistakes) || len(mistakes.Problems) == 0 {
				t.Fatalf("%v is no list of mistakes", err)
			}
			return
		}
		c, err := inv.Cluster(Roles{"", ""})
		if err != nil {
			if !errors.As(err, &mistakes) {
				t.Fatal(err)
			}
			return
		}
		c.Keys = []string{someKey}
		content, open, err := c.Write("cluster.yaml")
		if err != nil || len(open) > 0 {
			t.Fatalf("%v %v\n%s", open, err, content)
		}
	})
}
