package main

import (
	"errors"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/difference"
	"hatchery/imagebuilder/diskimage"
)

// diff says what an image has otherwise than another one, or than its base.
func (i *inspection) diff(image *imagebuilder.OpenedImage, args []string) error {
	if i.noDiffs && i.all {
		return usageError{errors.New("--all shows more, --no-diffs less: which is it?")}
	}
	other, err := i.other(image, args)
	if err != nil {
		return err
	}
	defer other.Close()
	d, err := difference.Compare(i.command.Context(), other.Image, image.Image, difference.Options{
		WasName: other.Name, IsName: image.Name, Private: diskimage.Private, Public: diskimage.Public,
	})
	if err != nil {
		return err
	}
	if i.json {
		return printJSON(i.out(), d)
	}
	return d.WriteText(i.out(), difference.TextOptions{
		Color: colored(i.out()), All: i.all, NoDiffs: i.noDiffs, Hint: "--all shows everything",
	})
}

// other opens what an image is compared with.
func (i *inspection) other(image *imagebuilder.OpenedImage, args []string) (*imagebuilder.OpenedImage, error) {
	if len(args) > 0 {
		return i.open(args[0])
	}
	display := i.display(i.command)
	defer display.Close()
	options := i.options
	options.Progress = display
	return imagebuilder.OpenBaseOf(i.command.Context(), image.Name, options)
}
