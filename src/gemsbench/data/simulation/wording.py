"""The words of the simulated world: departments, products, features, brands, and a little Chinese."""

from __future__ import annotations

# Department -> (product groups, vocabulary of its texts); a group's last word in the singular names a product.
DEPARTMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Camera & Photo": (
        (
            "Lenses",
            "Tripods",
            "Flash Units",
            "Camera Bags",
            "Photo Printers",
            "Light Meters",
            "Film Scanners",
            "Filters",
        ),
        ("aperture", "shutter", "exposure", "portrait", "landscape", "focus", "tripod", "optics", "viewfinder", "zoom"),
    ),
    "Audio & Hi-Fi": (
        ("Headphones", "Speakers", "Amplifiers", "Turntables", "Radios", "Microphones", "Subwoofers", "Tuners"),
        ("treble", "bass", "stereo", "vinyl", "acoustic", "impedance", "woofer", "studio", "playback", "balanced"),
    ),
    "Computers & Tablets": (
        ("Keyboards", "Monitors", "Laptops", "Memory Modules", "Graphics Cards", "Docking Stations", "Mice", "Tablets"),
        (
            "processor",
            "typing",
            "pixels",
            "memory",
            "desktop",
            "workstation",
            "latency",
            "firmware",
            "gaming",
            "office",
        ),
    ),
    "Cell Phones": (
        (
            "Phone Cases",
            "Screen Protectors",
            "Car Chargers",
            "Headsets",
            "Battery Packs",
            "Styluses",
            "Holders",
            "Cables",
        ),
        ("handset", "pocket", "caller", "touchscreen", "scratch", "signal", "ringtone", "grip", "commute", "thumb"),
    ),
    "GPS & Navigation": (
        (
            "Route Planners",
            "Marine Plotters",
            "Bike Computers",
            "Dash Cameras",
            "Fish Finders",
            "Trackers",
            "Maps",
            "Compasses",
        ),
        ("satellite", "waypoint", "highway", "sonar", "bearing", "detour", "anchor", "coastline", "trail", "altitude"),
    ),
    "Television & Video": (
        (
            "Televisions",
            "Projectors",
            "Disc Players",
            "Remote Controls",
            "Antennas",
            "Wall Mounts",
            "Receivers",
            "Streamers",
        ),
        (
            "cinema",
            "contrast",
            "broadcast",
            "channel",
            "subtitle",
            "panel",
            "brightness",
            "surround",
            "tuner",
            "episode",
        ),
    ),
    "Networking": (
        ("Routers", "Switches", "Modems", "Access Points", "Network Adapters", "Print Servers", "Repeaters", "Hubs"),
        (
            "bandwidth",
            "ethernet",
            "firewall",
            "gateway",
            "packet",
            "uplink",
            "throughput",
            "subnet",
            "antenna",
            "range",
        ),
    ),
    "Storage & Media": (
        (
            "Hard Drives",
            "Flash Drives",
            "Memory Cards",
            "Blank Discs",
            "Card Readers",
            "Drive Enclosures",
            "Tapes",
            "Burners",
        ),
        (
            "backup",
            "archive",
            "capacity",
            "terabyte",
            "encryption",
            "partition",
            "transfer",
            "cache",
            "spindle",
            "sector",
        ),
    ),
    "Home Office": (
        (
            "Printers",
            "Scanners",
            "Shredders",
            "Label Makers",
            "Calculators",
            "Fax Machines",
            "Toner Cartridges",
            "Lamps",
        ),
        ("paper", "document", "toner", "duplex", "invoice", "envelope", "drawer", "margin", "folder", "stapler"),
    ),
    "Car Electronics": (
        (
            "Car Stereos",
            "Parking Sensors",
            "Car Alarms",
            "Radar Detectors",
            "Backup Cameras",
            "Inverters",
            "Horns",
            "Gauges",
        ),
        ("dashboard", "engine", "bumper", "ignition", "windshield", "mileage", "fuse", "driver", "trunk", "garage"),
    ),
    "Power & Batteries": (
        (
            "Batteries",
            "Chargers",
            "Power Strips",
            "Solar Panels",
            "Generators",
            "Surge Protectors",
            "Transformers",
            "Lanterns",
        ),
        ("voltage", "outlet", "sunlight", "discharge", "ampere", "blackout", "socket", "standby", "lithium", "watt"),
    ),
    "Wearables": (
        (
            "Smart Watches",
            "Fitness Bands",
            "Heart Monitors",
            "Pedometers",
            "Wrist Straps",
            "Sleep Trackers",
            "Rings",
            "Goggles",
        ),
        ("wrist", "pulse", "stride", "calorie", "workout", "swim", "strap", "sensor", "coach", "marathon"),
    ),
}
MODIFIERS = (
    "Wireless", "Portable", "Compact", "Digital", "Professional",
    "Outdoor", "Rechargeable", "Waterproof", "Replacement", "Miniature",
)  # fmt: skip
# What people write about, for the note-sharing log: theme -> (Chinese name, subjects, vocabulary).
THEMES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "Travel": (
        "旅行",
        ("Mountain Hikes", "Beach Hotels", "Night Markets", "Train Journeys", "Island Ferries", "Old Towns"),
        ("itinerary", "ticket", "suitcase", "sunrise", "hostel", "passport", "harbour", "guidebook"),
    ),
    "Cooking": (
        "美食",
        ("Noodle Soups", "Sourdough Breads", "Rice Bowls", "Steamed Dumplings", "Fruit Cakes", "Spicy Hotpots"),
        ("simmer", "garlic", "dough", "oven", "sesame", "broth", "whisk", "spoon"),
    ),
    "Beauty": (
        "美妆",
        ("Lip Colours", "Face Masks", "Eye Shadows", "Hair Styles", "Nail Designs", "Sun Creams"),
        ("skin", "matte", "palette", "gloss", "lotion", "brush", "curl", "shade"),
    ),
    "Fitness": (
        "健身",
        ("Yoga Routines", "Running Plans", "Swimming Drills", "Home Workouts", "Climbing Walls", "Dance Classes"),
        ("stretch", "muscle", "breath", "kettlebell", "warmup", "sprint", "balance", "posture"),
    ),
    "Fashion": (
        "穿搭",
        ("Winter Coats", "Linen Dresses", "Canvas Shoes", "Silver Necklaces", "Office Outfits", "Straw Hats"),
        ("fabric", "sleeve", "wardrobe", "vintage", "denim", "pleats", "collar", "layering"),
    ),
    "Home": (
        "家居",
        ("Bedroom Lamps", "Balcony Gardens", "Kitchen Shelves", "Paint Colours", "Storage Baskets", "Wool Carpets"),
        ("cosy", "shelf", "curtain", "wooden", "tidy", "corner", "cushion", "renovation"),
    ),
    "Pets": (
        "宠物",
        ("Kitten Toys", "Dog Walks", "Parrot Cages", "Rabbit Meals", "Aquarium Plants", "Puppy Trainings"),
        ("paw", "whisker", "leash", "treats", "litter", "vet", "feather", "fur"),
    ),
    "Study": (
        "学习",
        ("Reading Lists", "Exam Notes", "Language Lessons", "Coding Projects", "Desk Setups", "Library Corners"),
        ("grammar", "notebook", "deadline", "lecture", "vocabulary", "revision", "semester", "highlighter"),
    ),
    "Crafts": (
        "手工",
        ("Knitted Scarves", "Paper Flowers", "Clay Cups", "Bead Bracelets", "Oil Paintings", "Wooden Toys"),
        ("yarn", "needle", "glue", "pattern", "kiln", "thread", "canvas", "scissors"),
    ),
    "Parenting": (
        "育儿",
        ("Picture Books", "Baby Meals", "Bedtime Stories", "School Lunches", "Bath Toys", "Birthday Parties"),
        ("toddler", "stroller", "nap", "crayon", "nursery", "cradle", "kindergarten", "lullaby"),
    ),
}  # fmt: skip
NOTE_MODIFIERS = ("Easy", "Budget", "Weekend", "Beginner", "Seasonal", "Favourite", "Quiet", "Colourful")
CHINESE_TITLES = ("分享我的日常", "新手必看攻略", "周末好去处", "亲测好用推荐", "超简单教程", "今日份快乐")
CHINESE_SENTENCES = (
    "真的很喜欢 推荐给大家。",
    "第一次尝试 效果不错。",
    "步骤很简单 新手也能学会。",
    "价格实惠 值得入手。",
)
BRAND_STARTS = (
    "Nor", "Vel", "Ast", "Kor", "Lum", "Zen", "Hal", "Bre", "Tor", "Fen",
    "Mar", "Quo", "Sil", "Dra", "Pol", "Ryn", "Cas", "Ulm", "Jov", "Eri",
)  # fmt: skip
BRAND_ENDS = (
    "tek", "dyne", "vox", "mira", "line", "core", "wave", "sonic", "light", "ware",
    "field", "stone", "bridge", "optic", "sys", "lux", "works", "craft", "point", "gear",
)  # fmt: skip
COLOURS = ("black", "white", "silver", "grey", "blue", "red", "green", "graphite")
FEATURES = (
    "a sturdy frame", "a quick setup", "a clear manual", "low weight", "long life", "a soft finish", "fine controls",
    "a slim profile", "solid joints", "a calm sound", "tidy cabling", "a two-year warranty",
)  # fmt: skip
GENERIC_NAMES = ("Device", "Kit", "Set", "Unit", "System")
OPENERS = (
    "Made for people who care about", "A careful design with", "This model adds", "Every part supports",
    "Built around", "Tested by experts in", "The maker&#39;s answer to", "You&#x27;ll notice",
)  # fmt: skip
CLOSERS = (
    "for everyday use.", "at home &amp; on the road.", "without any fuss.", "in every season.",
    "for beginners and experts.", "<br />Box contents may vary.", "with <b>great</b> care.", "since 1998.",
)  # fmt: skip
REVIEW_OPENERS = (
    "Bought it for the", "I wanted better", "My brother uses it for", "Good value when you need", "It handles",
    "Not perfect, but fine for", "After a month I still like the", "Returned the first one because of the",
)  # fmt: skip
REVIEW_CLOSERS = (
    "and it works.", "so far so good.", "would buy again.", "not sure it lasts.", "five stars from me.",
    "shipping was quick.", "as described.", "my kids love it.",
)  # fmt: skip
SUMMARIES = ("Works well", "Good value", "Does the job", "Not bad", "Love it!", "Could be better", "As described")
REVIEWERS = ("A. Reader", "Pat", "J. Smith", "gadget fan", "Sam &#34;the fixer&#34;", "Robin K.", "Chris", "M. Lee")
NOTE_OPENERS = ("Sharing my", "Finally tried", "How I plan", "Three tips on", "What I learned about", "A day of")
NOTE_CLOSERS = ("save it for later!", "tell me what you think.", "all steps below.", "photos inside.", "it was fun.")


def singular(name: str) -> str:
    """The singular of a product group's name, e.g. Batteries -> Battery."""
    irregular = {"Mice": "Mouse", "Lenses": "Lens", "Styluses": "Stylus", "Hard Drives": "Hard Drive"}
    if name in irregular:
        return irregular[name]
    if name.endswith("ies"):
        return name[:-3] + "y"
    return name[:-2] if name.endswith(("sses", "ches", "xes")) else name.removesuffix("s")
