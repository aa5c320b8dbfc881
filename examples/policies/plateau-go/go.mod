module example.com/plateau

go 1.26.0
