package main

import (
	"os"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/difference"
	"hatchery/imagebuilder/diskimage"
)

// diff says what an image has otherwise than another one.
func (i *inspection) diff(image *imagebuilder.OpenedImage, args []string) error {
	other, err := i.open(args[0])
	if err != nil {
		return err
	}
	defer other.Close()
	d, err := difference.Compare(i.command.Context(), other.Image, image.Image, difference.Options{
		WasName: other.Name, IsName: image.Name, Private: diskimage.Private,
	})
	if err != nil {
		return err
	}
	if i.json {
		return i.printJSON(d)
	}
	return d.WriteText(i.out(), difference.TextOptions{
		Color: i.onTerminal() && os.Getenv("NO_COLOR") == "", All: i.all, Hint: "--all shows everything",
	})
}
