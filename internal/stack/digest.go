package stack

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/docker/docker/api/types/swarm"
)

// digest is over what the engine is told, in one order. Of secrets it has all
// but their content.
func digest(s *Stack) (string, error) {
	type service struct {
		Key  string
		Spec swarm.ServiceSpec
	}
	what := struct {
		Format   int
		Name     string
		Services []service
		Networks []Network
		Secrets  []Secret
		Configs  []Config
		External External
	}{Format: 1, Name: s.Name, Networks: s.Networks, Configs: s.Configs, External: s.External}
	for _, each := range s.Services {
		what.Services = append(what.Services, service{each.Key, each.Spec})
	}
	what.Secrets = slices.Clone(s.Secrets)
	for i := range what.Secrets {
		what.Secrets[i].Spec.Data = nil
	}
	text, err := json.Marshal(what) // maps are in the order of their keys
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}
