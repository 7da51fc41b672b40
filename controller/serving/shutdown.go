package serving

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
	"hatchery/internal/nodefile"
)

// shutdownLimit is how long a node may take to answer that it shuts down.
const shutdownLimit = 20 * time.Second

// shutdown asks slots' nodes to shut down, and waits for the answer alone.
func shutdown(node *nodefile.Node, id *enrol.Identity) func(ctx context.Context, slot int) error {
	return func(ctx context.Context, slot int) error {
		target, ok := node.Target(slot)
		if !ok || slot == 0 {
			return fmt.Errorf("%s is not a slot of this cluster", clusterctrl.SlotName(slot))
		}
		ctx, cancel := context.WithTimeout(ctx, shutdownLimit)
		defer cancel()
		transport := &http.Transport{
			TLSClientConfig: enrol.ClientTLS(id, slot), DialContext: (&net.Dialer{Timeout: shutdownLimit / 2}).DialContext,
			DisableKeepAlives: true, MaxResponseHeaderBytes: enrol.MaxRequest,
		}
		defer transport.CloseIdleConnections()
		url := "https://" + netip.AddrPortFrom(target.Address, enrol.Port).String() + enrol.PathShutdown
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
		if err != nil {
			return err
		}
		answer, err := transport.RoundTrip(request)
		if err != nil {
			return fmt.Errorf("cannot ask %s to shut down: %w", target.Name, err)
		}
		defer answer.Body.Close()
		if answer.StatusCode == http.StatusAccepted {
			return nil
		}
		said := new(enrol.Error)
		data, _ := io.ReadAll(io.LimitReader(answer.Body, enrol.MaxRequest))
		if json.Unmarshal(data, said) != nil || said.Detail == "" {
			said.Detail = "it answers " + answer.Status
		}
		return fmt.Errorf("%s does not shut down: %s", target.Name, hearsay.Line(said.Detail, 512))
	}
}
