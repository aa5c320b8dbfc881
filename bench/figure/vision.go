package figure

import (
	"image/color"
	"math"
)

// rgb is red, green and blue in linear light, from 0 to 1.
type rgb [3]float64

func linear(c color.NRGBA) rgb {
	var out rgb
	for i, v := range [3]uint8{c.R, c.G, c.B} {
		if x := float64(v) / 0xff; x <= 0.04045 {
			out[i] = x / 12.92
		} else {
			out[i] = math.Pow((x+0.055)/1.055, 2.4)
		}
	}
	return out
}

func (c rgb) through(m [3]rgb) rgb {
	var out rgb
	for i, row := range m {
		for j, v := range row {
			out[i] += v * c[j]
		}
	}
	return out
}

// contrast is the ratio of two colours' luminances, as WCAG 2.1 defines it.
func contrast(a, b color.NRGBA) float64 {
	luminance := func(c color.NRGBA) float64 {
		l := linear(c)
		return 0.2126*l[0] + 0.7152*l[1] + 0.0722*l[2] + 0.05
	}
	x, y := luminance(a), luminance(b)
	return max(x, y) / min(x, y)
}

// lab is a colour in OKLab (Ottosson 2020), where distances are about as large as they look.
type lab [3]float64

func (c rgb) lab() lab {
	cones := c.through([3]rgb{
		{0.4122214708, 0.5363325363, 0.0514459929},
		{0.2119034982, 0.6806995451, 0.1073969566},
		{0.0883024619, 0.2817188376, 0.6299787005},
	})
	for i := range cones {
		cones[i] = math.Cbrt(cones[i])
	}
	return lab(cones.through([3]rgb{
		{0.2104542553, 0.7936177850, -0.0040720468},
		{1.9779984951, -2.4285922050, 0.4505937099},
		{0.0259040371, 0.7827717662, -0.8086757660},
	}))
}

// polar returns how colourful a colour is, and its hue in radians.
func (c lab) polar() (chroma, hue float64) {
	return math.Hypot(c[1], c[2]), math.Atan2(c[2], c[1])
}

// Colour-blindness at its full severity, on linear light: Machado, Oliveira and Fernandes, "A
// Physiologically-based Model for Simulation of Color Vision Deficiency", 2009.
var blindness = [][3]rgb{
	{ // protanopia: no long-wave cones
		{0.152286, 1.052583, -0.204868}, {0.114503, 0.786281, 0.099216},
		{-0.003882, -0.048116, 1.051998},
	},
	{ // deuteranopia: no middle-wave cones
		{0.367322, 0.860646, -0.227968}, {0.280085, 0.672501, 0.047413},
		{-0.011820, 0.042940, 0.968881},
	},
	{ // tritanopia: no short-wave cones
		{1.255528, -0.076749, -0.178779}, {-0.078411, 0.930809, 0.147602},
		{0.004733, 0.691367, 0.303900},
	},
}

// perceived is a colour as people with all cones see it, and then as those without one kind do.
type perceived [4]lab

func perceive(c color.NRGBA) perceived {
	p := perceived{linear(c).lab()}
	for i, m := range blindness {
		p[i+1] = linear(c).through(m).lab()
	}
	return p
}

// distance is how unlike two colours are to whoever sees the least difference.
func (p perceived) distance(q perceived) float64 {
	least := math.Inf(1)
	for i := range p {
		var sum float64
		for j := range p[i] {
			sum += (p[i][j] - q[i][j]) * (p[i][j] - q[i][j])
		}
		least = min(least, math.Sqrt(sum))
	}
	return least
}
