package adoption

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
)

// A told is what a controller answers, by the script's parts; what it lacks fails.
type told map[string]string

var partOf = regexp.MustCompile(`(?m)^part (\w+)`)

// shell answers the script as a controller would.
func (answers told) shell(_ context.Context, script io.Reader) ([]byte, error) {
	text, err := io.ReadAll(script)
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	mark := strings.TrimPrefix(first, "mark=")
	var b strings.Builder
	b.WriteString("Welcome!\n")
	for _, m := range partOf.FindAllStringSubmatch(string(text), -1) {
		answer, status := answers[m[1]], 0
		if _, there := answers[m[1]]; !there && m[1] != "whole" {
			status = 1
		}
		fmt.Fprintf(&b, "\n%s begin %s\n%s\n%s end %s %d\n", mark, m[1], answer, mark, m[1], status)
	}
	return []byte(b.String()), nil
}

func node(id, host, addr, arch, more string) string {
	return fmt.Sprintf(`{"ID":%q,"Spec":{"Role":"worker","Availability":"active"%s},"Description":{"Hostname":%q,"Platform":{"Architecture":%q}},"Status":{"State":"ready","Addr":%q}}`, id, more, host, arch, addr)
}

const manager = `{"ID":"x","Architecture":"armv7l","Swarm":{"NodeID":"c","LocalNodeState":"active","ControlAvailable":true,"Cluster":{"DefaultAddrPool":["10.0.0.0/8"]}}}`

// stock is a ClusterCTRL controller as the articles have it, with CNAT.
func stock() told {
	return told{
		"user": "pi\n", "hostname": "hammond\n", "machine": "armv7l\n", "model": "Raspberry Pi 3 Model B Plus Rev 1.3\x00",
		"zone": "Europe/London\n", "locale": "LANG=en_GB.utf8\n", "keys": someKey + "\n",
		"links":     "br0 aa:bb:cc:dd:ee:ff \neth0 b8:27:eb:00:00:01 \nethpi1 00:22:82:ff:fe:01 br0\nethupi2 00:22:82:ff:fe:02 br0\nethpi9 00:22:82:ff:fe:09 br0\n",
		"addresses": "2: eth0    inet 192.168.42.10/24 brd 192.168.42.255 scope global eth0\n3: br0    inet 172.19.181.254/24 scope global br0\n",
		"routes":    "default via 192.168.42.1 dev eth0 onlink\n",
		"info":      manager,
		"nodes": "[" + strings.Join([]string{
			node("c", "hammond", "172.19.181.254", "armv7l", `,"Labels":{"big":"yes"}`),
			node("1", "oneil", "172.19.181.1", "armv6l", `,"Labels":{"disk":"ssd","hatchery.slot":"p1"}`),
			node("2", "carter", "172.19.181.2", "aarch64", ""),
			node("3", "nas", "192.168.42.77", "x86_64", ""),
		}, ",") + "]",
		"services": "", "networks": "[]", "secrets": "", "configs": "",
	}
}

func TestRunning(t *testing.T) {
	for _, test := range []struct {
		summary string
		change  func(told)
		file    []string // parts of cluster.yaml
		notes   []string
		err     string
	}{
		{"a stock controller", nil, []string{
			"hostname: hammond", `model: "3"`, "network: cnat", "address: \"192.168.42.10/24\"", "gateway: \"192.168.42.1\"",
			"  p1:\n    hostname: oneil\n    # An ARMv6 board: a Zero, or a Zero W (`zero-w`).\n    model: zero\n    labels:\n      disk: ssd\n",
			"  p2:\n    hostname: carter\n    model: zero-2-w\n    base: raspios_lite_arm64\n    root: netboot\n",
			"timezone: Europe/London", "locale: en_GB.UTF-8", someKey,
		}, []string{"labels big", "nas (192.168.42.77)", "slot p9 (ethpi9), which is in no swarm"}, ""},
		{"a bridge", func(a told) {
			a["links"] = "br0 aa:bb:cc:dd:ee:ff \neth0 b8:27:eb:00:00:01 br0\n"
			a["nodes"] = "[" + node("c", "ctrl", "192.168.42.10", "aarch64", "") + "," + node("1", "zero", "192.168.42.31", "armv6l", "") + "]"
			a["neighbours"] = "192.168.42.31 dev br0 lladdr 00:22:82:ff:ff:0c REACHABLE\n"
			a["addresses"] = "3: br0    inet 192.168.42.10/24 brd 192.168.42.255 scope global dynamic br0\n"
			a["routes"] = "default via 192.168.42.1 dev br0 proto dhcp src 192.168.42.10 metric 202\n"
		}, []string{"network: cbridge", "  p12:\n    hostname: zero"}, []string{"192.168.42.10/24 by DHCP"}, ""},
		{"Wi-Fi and drained", func(a told) {
			a["routes"] = "default via 192.168.42.1 dev wlan0\n"
			a["nodes"] = strings.Replace(a["nodes"], `"Availability":"active","Labels":{"disk"`, `"Availability":"drain","Labels":{"disk"`, 1)
		}, nil, []string{"whose password cannot be read", "availability in the swarm is drain"}, ""},
		{"a name and a label that cluster.yaml does not take", func(a told) {
			a["nodes"] = "[" + node("c", "hammond", "172.19.181.254", "armv7l", "") + "," + node("1", "my_pi", "172.19.181.1", "armv6l", `,"Labels":{"a/b":"c"}`) + "]"
		}, []string{"#    hostname: my_pi", "#      a/b: c"}, []string{"is not for cluster.yaml"}, ""},
		{"what would end a comment or a line", func(a told) {
			a["hostname"] = "a\\nb: [\n"
			a["model"] = "x\n- y: {"
		}, nil, nil, ""},
		{"an engine that does not answer", func(a told) { delete(a, "info") }, nil, nil, "docker does not answer"},
		{"no swarm", func(a told) { a["info"] = `{"ID":"x","Swarm":{"LocalNodeState":"inactive"}}` }, nil, nil, "in no swarm"},
		{"a worker", func(a told) { a["info"] = `{"ID":"x","Swarm":{"LocalNodeState":"active"}}` }, nil, nil, "a worker"},
		{"no JSON", func(a told) { a["nodes"] = "<html>" }, nil, nil, "docker's list of nodes"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			answers := stock()
			if test.change != nil {
				test.change(answers)
			}
			c, err := Running(t.Context(), answers.shell, "a test", false)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("the error is %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			content, open, err := c.Write("cluster.yaml")
			if err != nil || len(open) > 0 {
				t.Fatalf("%v %v\n%s", open, err, content)
			}
			notes := fmt.Sprint(c.Notes())
			for _, want := range test.file {
				if !strings.Contains(string(content), want) {
					t.Errorf("the file is without %q:\n%s", want, content)
				}
			}
			for _, want := range test.notes {
				if !strings.Contains(notes, want) {
					t.Errorf("nothing is said of %q: %s", want, notes)
				}
			}
		})
	}
}

// TestAnswerBreaksOff: half an answer is none.
func TestAnswerBreaksOff(t *testing.T) {
	_, err := Running(t.Context(), func(ctx context.Context, script io.Reader) ([]byte, error) {
		answer, err := stock().shell(ctx, script)
		return answer[:len(answer)-80], err
	}, "a test", false)
	if err == nil || !strings.Contains(err.Error(), "breaks off") {
		t.Error(err)
	}
	gone := errors.New("gone")
	if _, err := Running(t.Context(), func(context.Context, io.Reader) ([]byte, error) { return nil, gone }, "a test", false); !errors.Is(err, gone) {
		t.Error(err)
	}
}
