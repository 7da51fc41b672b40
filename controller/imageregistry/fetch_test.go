package imageregistry_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"hatchery/controller/imageregistry"
	"hatchery/internal/enrol"
)

// TestOnce: what many want at once comes from Docker Hub once, and all get it as it
// comes; later it comes from the card, also when there is no hub, and after a restart.
func TestOnce(t *testing.T) {
	h := newHub(t)
	s := newSite(t, h.URL, imageregistry.Limits{})
	i := image(t, 1_000_000, 2)
	must(t, push(t, h.host+"/library/hello:1", i))
	layers := layersOf(t, i)

	// Half of each layer is sent, and the rest when all have their half of it.
	const many = 4
	var mu sync.Mutex
	reached := map[string]int{}
	released := map[string]chan struct{}{}
	for _, l := range layers {
		released[l] = make(chan struct{})
	}
	h.onHalf(func(digest string) {
		if c := released[digest]; c != nil {
			select {
			case <-c:
			case <-time.After(time.Minute):
			}
		}
	})
	var pulling sync.WaitGroup
	for slot := 1; slot <= many; slot++ {
		_, mirror := s.node(slot)
		for _, l := range layers {
			pulling.Go(func() {
				answer, err := http.Get("http://" + mirror + "/v2/library/hello/blobs/sha256:" + l)
				if err != nil {
					t.Error(err)
					return
				}
				defer answer.Body.Close()
				buffer := make([]byte, 100_000)
				got := 0
				for said := false; ; {
					n, err := answer.Body.Read(buffer)
					if got += n; got > 400_000 && !said {
						said = true
						mu.Lock()
						if reached[l]++; reached[l] == many {
							close(released[l])
						}
						mu.Unlock()
					}
					if err != nil {
						break
					}
				}
				if int64(got) != answer.ContentLength || got < 1_000_000 {
					t.Errorf("slot %d got %d bytes of %d", slot, got, answer.ContentLength)
				}
			})
		}
	}
	pulling.Wait()
	h.onHalf(nil)
	for slot := 1; slot <= many; slot++ {
		pulling.Go(func() {
			_, mirror := s.node(slot)
			if got, err := pull(t, mirror+"/library/hello:1"); err != nil || got != digestOf(t, i) {
				t.Errorf("slot %d: %v, %v", slot, got, err)
			}
		})
	}
	pulling.Wait()
	for _, l := range layers {
		if n := h.count(l); n != 1 {
			t.Errorf("the layer %s was fetched %d times", l, n)
		}
	}
	if n := h.count("manifests"); n != 1 {
		t.Errorf("the manifest was fetched %d times", n)
	}

	// The registry has it too, by its name in full.
	images, _ := s.node(1)
	for _, by := range []string{"/docker.io/library/hello:1", "/docker.io/hello:1"} {
		if got, err := pull(t, images+by); err != nil || got != digestOf(t, i) {
			t.Errorf("%s: %v, %v", by, got, err)
		}
	}
	h.Close()
	s.restart()
	_, mirror := s.node(2)
	if got, err := pull(t, mirror+"/library/hello:1"); err != nil || got != digestOf(t, i) {
		t.Errorf("without a hub: %v, %v", got, err)
	}
	if _, err := pull(t, mirror+"/library/other:1"); err == nil {
		t.Error("what nobody has is there")
	}
	answer, err := http.Post("http://"+mirror+"/v2/library/hello/blobs/uploads/", "", nil)
	must(t, err)
	defer answer.Body.Close()
	if said, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusMethodNotAllowed || !strings.Contains(string(said), "port 5000") {
		t.Errorf("pushed to the cache: %s, %s, %v", answer.Status, said, err)
	}
}

// TestBroken: a fetch that breaks off, or does not get on, ends for all who wait, and
// the next one begins anew.
func TestBroken(t *testing.T) {
	h := newHub(t)
	s := newSite(t, h.URL, imageregistry.Limits{Stall: 2 * time.Second})
	i := image(t, 1_000_000, 1)
	must(t, push(t, h.host+"/library/hello:1", i))
	_, mirror := s.node(1)
	forever := make(chan struct{})
	for _, c := range []struct {
		summary string
		half    func(string)
	}{
		{"its manifest does not come", func(what string) {
			if what == manifests {
				<-forever
			}
		}},
		{"it breaks off", func(what string) {
			if what != manifests {
				panic(http.ErrAbortHandler)
			}
		}},
		{"nothing more comes", func(what string) {
			if what != manifests {
				<-forever
			}
		}},
	} {
		h.onHalf(c.half)
		if _, err := pull(t, mirror+"/library/hello:1"); err == nil {
			t.Errorf("%s: it was pulled", c.summary)
		}
	}
	close(forever)
	h.onHalf(nil)
	if got, err := pull(t, mirror+"/library/hello:1"); err != nil || got != digestOf(t, i) {
		t.Errorf("the next one: %v, %v", got, err)
	}
	if _, err := pull(t, mirror+"/library/hello:none"); err == nil || !strings.Contains(err.Error(), "MANIFEST_UNKNOWN") {
		t.Errorf("what the hub has not: %v", err)
	}
}

// TestAccess: who reads, and who pushes.
func TestAccess(t *testing.T) {
	s := newSite(t, "http://192.0.2.1", imageregistry.Limits{})
	foreign := newSite(t, "http://192.0.2.1", imageregistry.Limits{}).cluster.Slot(t, 1)
	i := image(t, 1000, 1)
	images, _ := s.node(1)
	must(t, push(t, images+"/hello:1", i))
	s.cluster.Slot(t, 3)
	renewed, err := s.cluster.Store.Renew("p3", 3, "hostp3")
	must(t, err)
	p3, err := enrol.NewIdentity(renewed.Key, renewed.Certificate, renewed.CA)
	must(t, err)
	old := s.cluster.Slot(t, 2)
	writeFile(t, s.options.Revocations, `{"version":1,"cluster":"homelab","slots":{"p2":{"min_generation":2},"p3":{"min_generation":2}}}`)
	for _, c := range []struct {
		summary, address string
		id               *enrol.Identity
		pulls            bool
		refusal          string // of a push; "" for none
	}{
		{"a node", "172.19.181.1", s.cluster.Slot(t, 1), true, ""},
		{"the controller", "172.19.181.254", s.cluster.Slot(t, 0), true, ""},
		{"one that was renewed", "172.19.181.3", p3, true, ""},
		{"without a certificate", "172.19.181.1", nil, true, "each with its certificate"},
		{"a node at another's address", "172.19.181.4", s.cluster.Slot(t, 1), true, "the certificate is p1's, and the request comes from 172.19.181.4"},
		{"a node that passes for the controller", "172.19.181.254", s.cluster.Slot(t, 1), true, "the certificate is p1's"},
		{"one that was revoked", "172.19.181.2", old, true, "the certificate of p2 was revoked"},
		{"from the LAN", "192.168.42.7", s.cluster.Slot(t, 0), false, "own network"},
	} {
		host := s.at(func() http.Handler { return s.Registry() }, c.address, c.id)
		if got, err := pull(t, host+"/hello:1"); (err == nil) != c.pulls || c.pulls && got != digestOf(t, i) {
			t.Errorf("%s pulls: %v, %v", c.summary, got, err)
		}
		err := push(t, host+"/hello:2", image(t, 1000, 1))
		if (err == nil) != (c.refusal == "") || err != nil && !strings.Contains(err.Error(), c.refusal) {
			t.Errorf("%s pushes: %v", c.summary, err)
		}
		if err := remote.Delete(ref(t, host+"/hello@"+digestOf(t, image(t, 1, 1)).String())); c.refusal != "" && (err == nil || !strings.Contains(err.Error(), c.refusal)) {
			t.Errorf("%s deletes: %v", c.summary, err)
		}
	}
	host := s.at(func() http.Handler { return s.Registry() }, "172.19.181.1", foreign)
	if err := push(t, host+"/hello:3", i); err != nil {
		t.Errorf("another cluster of that name is TLS' to refuse: %v", err)
	}
	writeFile(t, s.options.Revocations, "{")
	if err := push(t, images+"/hello:4", image(t, 1000, 1)); err == nil || !strings.Contains(err.Error(), "not known who was revoked") {
		t.Errorf("with revocations that cannot be read: %v", err)
	}
	s.restart()
	if _, err := pull(t, images+"/hello:1"); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}
