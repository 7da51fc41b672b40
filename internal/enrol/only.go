package enrol

import (
	"fmt"
	"net/http"
)

// ControllerOnly lets a cluster's controller through to what a node serves. Another
// node has no business there.
func ControllerOnly(cluster string, serve http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := PeerOfRequest(r)
		if err == nil && (peer.Slot != controllerSlot || peer.Cluster != cluster) {
			err = fmt.Errorf("this is for the controller of %s alone, and this is %s", cluster, peer)
		}
		if err != nil {
			WriteError(w, &Error{Status: http.StatusForbidden, Code: BadRequest, Detail: err.Error()})
			return
		}
		serve.ServeHTTP(w, r)
	})
}
