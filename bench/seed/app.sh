bash generator.sh & # bash, because Debian's sh has no $RANDOM
sh echo.sh
