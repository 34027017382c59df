bash generator.sh & # bash, for Debian's sh has no $RANDOM
sh echo.sh
