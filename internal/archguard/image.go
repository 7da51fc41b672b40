package archguard

import (
	"context"
	"errors"

	"hatchery/internal/cpu"
)

// An Image is what a reference stands for.
type Image struct {
	Variants []Variant
	// Single says that there is but one, which every engine takes, whatever
	// it is for.
	Single bool
}

// A Variant is an image for one platform.
type Variant struct {
	Platform Platform
	// Programs gives the programs in its layers to visit, until that says
	// otherwise. It is nil where the layers are not at hand.
	Programs func(ctx context.Context, visit func(path string, p cpu.Program) error) error
}

// A Reader knows images: a registry, archives, an engine. It answers ErrNotFound
// for those that it does not have.
type Reader interface {
	Image(ctx context.Context, ref string) (Image, error)
}

// ErrNotFound says that a Reader does not have an image.
var ErrNotFound = errors.New("there is no such image")

// InOrder asks one reader after the other, until one has the image. The first
// other error than ErrNotFound is told if none has it.
func InOrder(readers ...Reader) Reader { return inOrder(readers) }

type inOrder []Reader

func (readers inOrder) Image(ctx context.Context, ref string) (Image, error) {
	var first error
	for _, r := range readers {
		image, err := r.Image(ctx, ref)
		switch {
		case err == nil:
			return image, nil
		case ctx.Err() != nil:
			return Image{}, ctx.Err()
		case first == nil && !errors.Is(err, ErrNotFound):
			first = err
		}
	}
	if first == nil {
		first = ErrNotFound
	}
	return Image{}, first
}
