package imageregistry

import (
	"encoding/json"
	"net/http"
)

// refuse answers as registries do; engines show the message.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	type fault struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	// Whoever does not take the answer has hung up.
	_ = json.NewEncoder(w).Encode(struct {
		Errors []fault `json:"errors"`
	}{[]fault{{code, message}}})
}
