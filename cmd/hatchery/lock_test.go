package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"hatchery/imagebuilder/oslist/oslisttest"
	"hatchery/internal/imagetest"
	"hatchery/internal/testtool"
)

// TestLockScripts runs the commands that deal with names of base images. Each
// script has a server of its own at $SERVER which publishes an OS list; under
// raspios_lite_armhf there is a small image, as of 2025-11-24. Two commands
// are the server's: `publish NAME DATE` publishes the same image as another
// release, and `asked` says whether anything was asked for since it was last
// used.
func TestLockScripts(t *testing.T) {
	raw := imagetest.Bookworm(t)
	packed := imagetest.XZ(t, raw)
	testtool.Need(t, "xz")
	var servers sync.Map // by work folder; scripts run beside each other
	server := func(ts *testscript.TestScript) *oslisttest.Server {
		found, _ := servers.Load(ts.Getenv("WORK"))
		return found.(*oslisttest.Server)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/lock",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			server := oslisttest.New(t)
			servers.Store(env.WorkDir, server)
			server.Publish("raspios_lite_armhf", "2025-11-24", packed, raw)
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, "cache"))
			env.Setenv("SERVER", server.URL)
			if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(home, ".ssh", "id_ed25519.pub"), []byte(testKey), 0o644); err != nil {
				return err
			}
			yaml := fmt.Sprintf("name: homelab\nbase: raspios_lite_armhf\nos_list: %s\nuser: {authorized_keys: [~/.ssh/id_ed25519.pub]}\ndocker: {packages: []}\n", server.ListURL)
			return os.WriteFile(filepath.Join(env.WorkDir, "cluster.yaml"), []byte(yaml), 0o644)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"publish": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 2 {
					ts.Fatalf("usage: publish NAME DATE")
				}
				server(ts).Publish(args[0], args[1], packed, raw)
			},
			"asked": func(ts *testscript.TestScript, neg bool, _ []string) {
				if asked := server(ts).Requests(); neg == (len(asked) > 0) {
					ts.Fatalf("the server was asked for %q", asked)
				}
			},
		},
	})
}
